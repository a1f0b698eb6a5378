/**
 * What a pool does with each connection that it makes, before it hands it out: so a connection that is made beside it is in the
 * same state. A hook may set the role, the search_path, or anything else on which it depends where a lease is.
 *
 * In the order of pg-pool 3: the option `onConnect`, awaited; the events `connect` and `acquire`, whose listeners are not waited for,
 * but whose statements come first on the connection; the option `verify`. In the end the events `release` and `remove`, so that
 * who counts connections counts to zero.
 */
import type { PostgresListenClient, PostgresPool } from './driver.ts'

interface Hooks {
  onConnect?(client: object): unknown
  verify?(client: object, done: (error?: unknown) => void): void
}

/** Whether all hooks of the pool can be run: it emits events, and nobody has put another `connect` before its own. */
export function showsHooks(pool: PostgresPool): boolean {
  let own = 0
  for (let at: object | null = pool; at !== null; at = Object.getPrototypeOf(at) as object | null) {
    if (Object.hasOwn(at, 'connect')) own++
  }
  return own === 1 && typeof pool.emit === 'function'
}

/** Runs the hooks for a connection that is established. @throws what a hook throws: the connection is not fit for use */
export async function runHooks(pool: PostgresPool, client: object): Promise<void> {
  const options = (pool.options ?? {}) as Hooks
  await options.onConnect?.(client)
  pool.emit?.('connect', client)
  pool.emit?.('acquire', client)
  if (options.verify === undefined) return
  await new Promise<void>((resolve, reject) => {
    options.verify?.(client, (error) => {
      if (error) reject(error instanceof Error ? error : new Error('the pool refused the connection', { cause: error }))
      else resolve()
    })
  })
}

/** The connection is over. What a listener throws is lost: there is nobody to hear of it. */
export function tellRemoved(pool: PostgresPool, client: object): void {
  for (const emit of [() => pool.emit?.('release', undefined, client), () => pool.emit?.('remove', client)]) {
    try {
      emit()
    } catch {
      // the listener of somebody else
    }
  }
}

/** A connection as the pool makes its own, not connected yet: its `connect` runs the hooks as well. @throws the pool does not show how */
export function likeThePool(pool: PostgresPool): PostgresListenClient {
  const { Client, options } = pool
  if (Client === undefined) throw new Error('the pool does not show how it makes connections')
  const client = new Client(options as never)
  const connect = client.connect.bind(client)
  return Object.assign(client, {
    async connect() {
      await connect()
      client.on('end', () => tellRemoved(pool, client))
      await runHooks(pool, client)
    },
  })
}
