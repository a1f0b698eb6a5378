/**
 * COMMITs whose wait for the synchronous standby was ended. PostgreSQL answers such a COMMIT with success: it is on the primary,
 * and says in a WARNING that it may be on no standby. So a query that is cancelled in that wait (`pg_cancel_backend`) looks as
 * durable as every other one, and a failover forgets it.
 */
import type { PostgresPoolClient } from './driver.ts'

/** How often each connection has said so; those that are not in it are not listened to yet. */
const ended = new WeakMap<object, number>()

/** What says it in the server, in every version and language. */
const ROUTINE = 'SyncRepWaitForLSN'

/**
 * Begins to watch this connection, which is between two statements, until the function that is returned is called. That one throws if
 * a COMMIT since then did not wait to its end. A driver without the event `notice` shows nothing.
 */
export function watchStandbyWaits(client: PostgresPoolClient): () => void {
  let before = ended.get(client)
  if (before === undefined) {
    ended.set(client, (before = 0))
    client.on?.('notice', ({ routine }) => {
      if (routine === ROUTINE) ended.set(client, (ended.get(client) ?? 0) + 1)
    })
  }
  return () => {
    if (ended.get(client) === before) return
    throw new Error(
      'the wait for the synchronous standby was ended by a cancel: it is committed on the primary, and may be on no standby',
    )
  }
}
