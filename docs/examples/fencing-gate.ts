/** Writers that hold a lease in one store, and write to another: the gate keeps those out that were overtaken. */
import type { Pool } from 'pg'
import { ErrFenced, FencingGate, PostgresFencingStore, type Fence } from 'lease-recipes'
import { inTransaction } from './plain-pg.ts'

/** Puts a file where one writer at a time puts files. Tells whether it did. */
export async function putFile(
  gate: FencingGate,
  lock: Fence, // a lock, a Hold, or what arrived with the request: { fencingToken, holder }
  put: () => Promise<void>,
): Promise<boolean> {
  try {
    await gate.admit('bucket/reports', lock)
  } catch (error) {
    if (error instanceof ErrFenced) return false // a later holder has been here: `error.admitted`
    throw error
  }
  await put()
  return true
}

/** The same where the files are rows: gate and write are one transaction, and nothing comes between them. */
export async function putRow(pool: Pool, lock: Fence, text: string): Promise<void> {
  await inTransaction(pool, async (client) => {
    const gate = new FencingGate({ store: new PostgresFencingStore({ client }) })
    await gate.admit('report', lock) // a caller with a higher token waits until we have committed
    await client.query('INSERT INTO report (text) VALUES ($1)', [text])
  })
}
