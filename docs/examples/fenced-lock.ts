/** Two jobs under a lock: one that anybody may begin anew after a crash, and one that a person has to look at first. */
import type { Manager } from 'lease-core'
import { FailClosedLock, FailOpenLock, using } from 'lease-recipes'

/** Sends the invoices of a month, unless somebody is at it; tells whether it did. After a crash the next one goes on. */
export async function sendInvoices(
  manager: Manager,
  month: string,
  send: (signal: AbortSignal, fencingToken: bigint) => Promise<void>,
): Promise<boolean> {
  const locks = new FailOpenLock({
    manager,
    leaseDuration: { seconds: 30 }, // so long after a crash the lock opens by itself
    heartbeatPeriod: { seconds: 10 },
  })

  const lock = await locks.tryAcquire({ partition: 'invoices', sort: month }) // undefined: somebody is at it
  if (lock === undefined) return false
  lock.on('error', (cause) => console.warn('a heartbeat failed, and is tried again', cause))
  lock.on('lost', ({ reason }) => console.warn(`the lock is not ours any more: ${reason}`))
  await using(lock, ({ signal, fencingToken }) => send(signal, fencingToken)) // the signal aborts when it is lost
  return true
}

/** Moves the ledger. A crash in the middle leaves the lock closed: nobody begins anew on a ledger that is half moved. */
export async function moveLedger(manager: Manager, move: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const locks = new FailClosedLock({ manager, owner: 'ledger-mover@eu-1' })

  const lock = await locks.acquire('ledger', { wait: { minutes: 5 } })
  await move(lock.signal)
  await lock.release() // not when `move` threw: then the ledger is half moved, too
}

/** What a person does who has looked at the ledger. */
export async function freeLedger(manager: Manager): Promise<void> {
  const locks = new FailClosedLock({ manager })

  for (const { id, owner, pinned } of await locks.list())
    console.log(id, 'is locked by', owner, pinned ? '(pinned)' : '')
  await locks.forceRelease('ledger')
}
