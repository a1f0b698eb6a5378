/** An import that one process at a time goes on with; one that hangs loses its place to the next. */
import type { Manager, Token } from 'lease-core'
import { Authority } from 'lease-recipes'

/** Imports what the feed brings, as soon as it is this process's turn, until the feed ends or the authority is lost. */
export async function importFeed(
  manager: Manager,
  feed: AsyncIterable<string>,
  write: (row: string, token: Token) => Promise<void>,
): Promise<void> {
  await using authority = new Authority({
    manager,
    lease: 'import',
    ttl: { seconds: 15 }, // so long after the last row another may take over
    heartbeatInterval: { seconds: 2 },
  })
  authority.on('lost', ({ reason }) => console.warn(`the import is not ours any more: ${reason}`))

  await authority.ready({ wait: true }) // until it is our turn
  const { signal, token } = authority
  for await (const row of feed) {
    signal.throwIfAborted() // the very term that we were granted is over
    await write(row, token) // `token.check(key)` in the same transaction keeps a stale writer out
    void authority.heartbeat() // alive because working: extends at most every two seconds
  }
}
