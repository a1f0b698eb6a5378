/** Many servers read a catalogue, and one of them rebuilds it at times. */
import type { Manager } from 'lease-core'
import { ReadWriteLock } from 'lease-recipes'

/** The lock of this server; `maxReaders` is the same on every server. */
export function catalogueLock(manager: Manager): ReadWriteLock {
  return new ReadWriteLock({ manager, name: 'catalogue', maxReaders: 32, duration: { seconds: 15 } })
}

/** Reads beside other readers, and never during a rebuild. */
export async function search(lock: ReadWriteLock, request: string, find: () => Promise<string>): Promise<string> {
  await using reading = await lock.rlock(request)
  const found = await find()
  reading.assertHeld() // throws ErrLost when a rebuild may have begun
  return found
}

/** Rebuilds it after the present readers have finished. Later readers wait. */
export async function rebuild(
  lock: ReadWriteLock,
  server: string,
  write: (signal: AbortSignal, fencingToken: bigint) => Promise<void>,
): Promise<void> {
  await using writing = await lock.wlock(server, { wait: { minutes: 5 } })
  await write(writing.signal, writing.fencingToken)
}
