// A migration that changes the table orders, by postgres-migrations itself.
const { Client } = require("pg");
const { migrate } = require("postgres-migrations");

const client = new Client();
client
  .connect()
  .then(() => migrate({ client }, process.env.MIGRATIONS))
  .then((done) => console.log(done.length))
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  })
  .finally(() => client.end());
