/** A report once an hour, in a fleet of processes. Each process runs this program; one of them writes the report of an hour. */
import { Cron } from 'croner'
import { Manager } from 'lease-core'
import { cronerSlot } from 'lease-cron'
import { inTransaction, migrate, postgresClient } from 'lease-postgres'
import { OncePer, type RunScope } from 'lease-recipes'
import { Pool } from 'pg'

const pool = new Pool({ connectionString: process.env['DATABASE_URL'], connectionTimeoutMillis: 10_000 })
await migrate(pool) // creates the tables of the leases; safe in every process at every start
const client = postgresClient({ pool, namespace: 'reports' })
const manager = new Manager({ client })
const once = new OncePer({ manager, atMost: { minutes: 5 }, atLeast: { days: 2 } })

/** The report of one hour. Its row is written only while this process has the run. */
async function writeReport({ slot, run }: RunScope): Promise<void> {
  await inTransaction(pool, async (connection) => {
    await run.token.check(connection)
    const orders = 'SELECT $1::timestamptz, count(*) FROM orders WHERE at < $1::timestamptz'
    await connection.query(`INSERT INTO report (hour, orders) ${orders}`, [slot])
  })
}

async function runOnce(job: Cron): Promise<void> {
  try {
    const outcome = await once.run('report', cronerSlot(job), writeReport)
    console.log(outcome.ran ? `wrote ${outcome.slot}` : `skipped: ${outcome.reason} by ${outcome.by}`)
  } catch (error) {
    console.error('the report', error) // the store did not answer, or the report failed: this hour is not tried again
  }
}

let running = Promise.resolve()
const job = new Cron(process.env['SCHEDULE'] ?? '0 * * * *', { timezone: 'UTC' }, (job: Cron) => {
  running = running.then(() => runOnce(job))
})
running = runOnce(job) // the hour that was due while no process was up, unless it ran

async function stop(): Promise<void> {
  job.stop()
  await running // the report that is being written
  await manager.stop()
  await client.close() // the client first, then the pool
  await pool.end() // nothing is left: the process ends with 0
}
process.once('SIGTERM', () => void stop())
