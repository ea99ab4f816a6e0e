// pg-boss makes its tables, as every program that uses it does when it starts.
const PgBoss = require("pg-boss");

const { PGHOST: host, PGPORT: port, PGUSER: user, PGDATABASE: database } = process.env;
const boss = new PgBoss({
  host,
  port: Number(port),
  user,
  database,
  application_name: "pg-boss",
  supervise: false,
  schedule: false,
});
boss
  .start()
  .then(() => boss.stop({ graceful: false }))
  .then(() => console.log("started"))
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
