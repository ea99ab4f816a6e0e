// A migration that changes the table orders, by node-pg-migrate itself.
const { runner } = require("node-pg-migrate");

runner({
  databaseUrl: {}, // libpq's variables say where
  dir: process.env.MIGRATIONS,
  direction: "up",
  migrationsTable: "pgmigrations",
  log: () => {},
}).then(
  (done) => console.log(done.length),
  (error) => {
    console.error(error.message);
    process.exitCode = 1;
  },
);
