/**
 * Connections for transactions. WATCH belongs to a connection: the EXEC, DISCARD, UNWATCH or SELECT of anybody else on it undoes
 * what is watched, and nobody can see from outside whether others have it. So each connection that transactions are asked of
 * gets one beside it that nobody else has. It lives as long as the other, at most.
 */
import { ErrTrapdoor, hasMethods } from 'lease-core'
import type { RedisPrivateOverrides, RedisTransactional } from './driver.ts'
import { NOT_OPEN } from './connection.ts'
import { SENTINEL_TIMEOUT_MS } from './listener.ts'

type Private = ReturnType<RedisTransactional<unknown>['duplicate']>

const overrides: RedisPrivateOverrides = {
  autoResendUnfulfilledCommands: false,
  enableAutoPipelining: false,
  enableOfflineQueue: true,
  lazyConnect: true,
  failoverDetector: false, // as in listener.ts
  retryStrategy: null,
  sentinelCommandTimeout: SENTINEL_TIMEOUT_MS,
  sentinelRetryStrategy: () => null,
}

const privates = new WeakMap<object, Private>()

/**
 * The one beside this connection.
 *
 * @throws ErrTrapdoor this is no connection, or a Cluster, or closed
 */
export function privateOf(
  connection: RedisTransactional<unknown>,
  { lease, holder }: { readonly lease?: string; readonly holder?: string } = {},
): Private {
  const refuse = (message: string): never => {
    throw new ErrTrapdoor(message, { lease, holder })
  }
  if ((connection as { readonly isCluster?: unknown } | null)?.isCluster === true) {
    refuse(
      'a Cluster cannot be watched: pass the node of the slot (one of cluster.nodes() of ioredis, cluster.nodeClient(…) of node-redis), or use run()',
    )
  }
  if (!hasMethods(connection, 'duplicate', 'multi', 'on', 'off')) {
    refuse(
      'this is not a connection that shows how to make another: pass a Redis of ioredis or a client of node-redis, or use run()',
    )
  }
  if (connection.status === 'end') refuse('this connection is closed')
  // One of ioredis connects by itself, and can be closed before it has; one of node-redis cannot, and its companion would stay.
  if (connection.status === 'wait' && !hasMethods(connection, 'disconnect')) refuse(NOT_OPEN)
  const known = privates.get(connection)
  if (known !== undefined) return known
  const own = connection.duplicate(overrides)
  const end = (): void => own.disconnect()
  privates.set(connection, own)
  connection.on('end', end)
  own.on('error', () => {}) // what was asked rejects as well
  own.on('end', () => {
    connection.off('end', end)
    if (privates.get(connection) === own) privates.delete(connection)
  })
  return own
}

/** The next transaction gets another one. */
export function dropPrivate(connection: RedisTransactional<unknown>): void {
  privates.get(connection)?.disconnect()
  privates.delete(connection)
}
