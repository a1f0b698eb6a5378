/** An import that runs in one process at a time. A process that hangs loses the lease to the next candidate. */
import type { Manager, Token } from 'lease-core'
import { Authority } from 'lease-recipes'

/** Waits for the lease, then imports rows until the feed ends or the lease is lost. */
export async function importFeed(
  manager: Manager,
  feed: AsyncIterable<string>,
  write: (row: string, token: Token) => Promise<void>,
): Promise<void> {
  await using authority = new Authority({
    manager,
    lease: 'import',
    ttl: { seconds: 15 }, // this long after the last extension another may take over
    heartbeatInterval: { seconds: 2 },
  })
  authority.on('lost', ({ reason }) => console.warn(`the import is not ours any more: ${reason}`))

  await authority.ready({ wait: true }) // resolves when the lease is granted
  const { signal, token } = authority
  for await (const row of feed) {
    signal.throwIfAborted() // throws when this term is over
    await write(row, token) // `token.check(key)` in the same transaction rejects a stale writer
    void authority.heartbeat() // work makes progress: extends the lease, at most every two seconds
  }
}
