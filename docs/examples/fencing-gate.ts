/** Writers hold a lease in one store and write to another. The gate rejects a writer after a later one has been admitted. */
import type { Pool } from 'pg'
import { inTransaction } from 'lease-postgres'
import { ErrFenced, FencingGate, PostgresFencingStore, type Fence } from 'lease-recipes'

/** Puts a file into a bucket that only the holder of the lock may write to. Returns whether it did. */
export async function putFile(
  gate: FencingGate,
  lock: Fence, // a lock, a Hold, or what a request carried: { fencingToken, holder }
  put: () => Promise<void>,
): Promise<boolean> {
  try {
    await gate.admit('bucket/reports', lock)
  } catch (error) {
    if (error instanceof ErrFenced) return false // the gate has admitted a later holder: `error.admitted`
    throw error
  }
  await put()
  return true
}

/** The same where the files are rows: gate and write are one transaction, so nothing comes between them. */
export async function putRow(pool: Pool, lock: Fence, text: string): Promise<void> {
  await inTransaction(pool, async (client) => {
    const gate = new FencingGate({ store: new PostgresFencingStore({ client }) })
    await gate.admit('report', lock) // a caller with a higher token waits until this transaction ends
    await client.query('INSERT INTO report (text) VALUES ($1)', [text])
  })
}
