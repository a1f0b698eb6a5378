/**
 * Transfers behind HTTP. A transfer asks another service first, which takes a while. The lease keeps two transfers of one account apart
 * during that time, in all processes. The guard makes sure that a transfer that lost the lease meanwhile writes nothing.
 */
import { createServer, type IncomingMessage } from 'node:http'
import { json } from 'node:stream/consumers'
import { PrismaPg } from '@prisma/adapter-pg'
import { ErrClaimDenied, ErrLost, ErrNotHeld, ErrUnknown, Manager } from 'lease-core'
import { migrate, postgresClient } from 'lease-postgres'
import { withLease } from 'lease-recipes'
import { Pool } from 'pg'
import { PrismaClient } from './generated/client.ts'

const connectionString = process.env['DATABASE_URL']
const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString }) })

const pool = new Pool({ connectionString, connectionTimeoutMillis: 10_000 }) // the leases have a pool of their own
await migrate(pool, { schema: 'leases' }) // `prisma db push` leaves this schema alone
const client = postgresClient({ pool, namespace: 'bank', schema: 'leases' })
const manager = new Manager({ client })

interface Transfer {
  readonly from: number
  readonly to: number
  readonly amount: number
}

async function transfer({ from, to, amount }: Transfer): Promise<void> {
  const options = { duration: { seconds: 30 }, wait: { seconds: 5 } }
  await withLease(manager, `account-${from}`, options, async ({ signal, hold }) => {
    await askFraudService({ from, to, amount }, signal)
    await prisma.$transaction(async (tx) => {
      await hold.token.check(tx) // ErrNotHeld: rolled back
      await tx.account.update({ where: { id: from }, data: { balance: { decrement: amount } } })
      await tx.account.update({ where: { id: to }, data: { balance: { increment: amount } } })
    })
  })
}

async function askFraudService(transfer: Transfer, signal: AbortSignal): Promise<void> {
  const body = JSON.stringify(transfer)
  const response = await fetch(process.env['FRAUD_SERVICE'] ?? '', { method: 'POST', body, signal })
  if (!response.ok) throw new Error(`the fraud service answered ${response.status}`)
}

/** Which status a failure is. After 409 and 503 the caller may ask again. */
function statusOf(error: unknown): number {
  if (error instanceof ErrClaimDenied) return 409 // another transfer of this account: nothing was done
  if (error instanceof ErrNotHeld || error instanceof ErrLost) return 409 // the lease was lost: nothing was written
  if (error instanceof ErrUnknown) return 503 // the store of the leases does not answer: nothing was written
  return 500
}

const server = createServer((request, response) => {
  void answer(request).then((status) => response.writeHead(status).end())
})

async function answer(request: IncomingMessage): Promise<number> {
  try {
    await transfer((await json(request)) as Transfer)
    return 200
  } catch (error) {
    console.error('a transfer', error)
    return statusOf(error)
  }
}

server.listen(Number(process.env['PORT'] ?? 3000), '127.0.0.1', () => {
  console.log('listens', JSON.stringify(server.address()))
})

async function stop(): Promise<void> {
  await new Promise((resolve) => server.close(resolve)) // requests in flight end first
  await manager.stop()
  await client.close() // the client first, then the pool
  await pool.end()
  await prisma.$disconnect() // nothing is left: the process ends with 0
}
process.once('SIGTERM', () => void stop())
