/** A catalogue that many servers read, and that one rebuilds now and then. */
import type { Manager } from 'lease-core'
import { ReadWriteLock } from 'lease-recipes'

/** The lock of this server; `maxReaders` is the same on every server. */
export function catalogueLock(manager: Manager): ReadWriteLock {
  return new ReadWriteLock({ manager, name: 'catalogue', maxReaders: 32, duration: { seconds: 15 } })
}

/** Reads together with others, and never while it is rebuilt. */
export async function search(lock: ReadWriteLock, request: string, find: () => Promise<string>): Promise<string> {
  await using reading = await lock.rlock(request)
  const found = await find()
  reading.assertHeld() // nobody has begun to rebuild it meanwhile
  return found
}

/** Rebuilds it when those who read now are through; those who come later wait. */
export async function rebuild(
  lock: ReadWriteLock,
  server: string,
  write: (signal: AbortSignal, fencingToken: bigint) => Promise<void>,
): Promise<void> {
  await using writing = await lock.wlock(server, { wait: { minutes: 5 } })
  await write(writing.signal, writing.fencingToken)
}
