/** A term that a child process or a worker thread continues: the lease is not free in between, and the fencing token stays the same. */
import type { Hold, Manager } from 'lease-core'
import type { Baton } from './lambda.ts'

/** From now on nothing here renews the lease or gives it back. Send what this returns to who shall continue. */
export async function handOver(hold: Hold): Promise<Baton> {
  await hold.renew() // the other one has a whole duration to begin
  hold.letLapse()
  return { lease: hold.lease, holder: hold.holder, fencingToken: String(hold.fencingToken) }
}

/** In the other process or thread, which has a client and a manager of its own. Throws if the term is over. */
export async function takeOver(manager: Manager, { lease, holder, fencingToken }: Baton): Promise<Hold> {
  const hold = await manager.hold(lease, holder, { duration: { seconds: 30 } })
  if (String(hold.fencingToken) === fencingToken) return hold
  await hold.release() // nobody held it any more, and this has opened another term
  throw new Error(`the term of ${lease} is over: begin again`)
}
