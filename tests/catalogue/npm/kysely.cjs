// A migration that changes the table orders, by Kysely's Migrator.
const { Kysely, Migrator, PostgresDialect, sql } = require("kysely");
const { Pool } = require("pg");

const db = new Kysely({ dialect: new PostgresDialect({ pool: new Pool() }) });
const up = (db) => sql`ALTER TABLE orders ADD COLUMN paid boolean`.execute(db);
const provider = { getMigrations: async () => ({ "1": { up } }) };

new Migrator({ db, provider })
  .migrateToLatest()
  .then(async ({ error, results }) => {
    await db.destroy();
    if (error) throw error;
    console.log(results.length);
  })
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
