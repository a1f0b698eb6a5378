/** Two jobs under a lock. After a crash any process may start the first one again; a person must inspect the second one first. */
import type { Manager } from 'lease-core'
import { FailClosedLock, FailOpenLock, using } from 'lease-recipes'

/** Sends the invoices of a month, unless another process is sending them. Returns whether it did. */
export async function sendInvoices(
  manager: Manager,
  month: string,
  send: (signal: AbortSignal, fencingToken: bigint) => Promise<void>,
): Promise<boolean> {
  const locks = new FailOpenLock({
    manager,
    leaseDuration: { seconds: 30 }, // this long after a crash the lock opens by itself
    heartbeatPeriod: { seconds: 10 },
  })

  const lock = await locks.tryAcquire({ partition: 'invoices', sort: month }) // undefined: another process holds it
  if (lock === undefined) return false
  lock.on('error', (cause) => console.warn('a heartbeat failed, and is tried again', cause))
  lock.on('lost', ({ reason }) => console.warn(`the lock is not ours any more: ${reason}`))
  await using(lock, ({ signal, fencingToken }) => send(signal, fencingToken)) // the signal aborts when the lock is lost
  return true
}

/** Moves the ledger. After a crash in the middle the lock stays closed: nobody starts again on a half-moved ledger. */
export async function moveLedger(manager: Manager, move: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const locks = new FailClosedLock({ manager, owner: 'ledger-mover@eu-1' })

  const lock = await locks.acquire('ledger', { wait: { minutes: 5 } })
  await move(lock.signal)
  await lock.release() // not when `move` throws: the ledger is then half moved too
}

/** An operator frees the lock after inspecting the ledger. */
export async function freeLedger(manager: Manager): Promise<void> {
  const locks = new FailClosedLock({ manager })

  for (const { id, owner, pinned } of await locks.list())
    console.log(id, 'is locked by', owner, pinned ? '(pinned)' : '')
  await locks.forceRelease('ledger')
}
