/** Hints by LISTEN, on a connection of its own. */
import { changesIn, type OpenHintConnection } from 'lease-core'
import type { PostgresListenClient } from './driver.ts'
import { quoteIdentifier } from './schema.ts'

/** Makes a connection of its own, not connected yet. */
export type OpenListenClient = () => PostgresListenClient

/** Listens to this channel over a connection that `open` makes. */
export function listenTo(channel: string, open: OpenListenClient): OpenHintConnection {
  return async (tell, signal) => {
    const client = open()
    let end = (): void => {}
    const ended = new Promise<void>((resolve) => (end = resolve))
    // A connection that breaks emits `error`, sometimes twice, and then `end`.
    client.on('error', end)
    client.on('end', end)
    client.on('notification', ({ payload }) => changesIn(payload ?? '').forEach(tell))
    const abandon = (): void => void client.end().catch(() => {}) // one that hangs says no farewell
    signal.addEventListener('abort', abandon, { once: true })
    try {
      await client.connect()
      await client.query(`LISTEN ${quoteIdentifier(channel)}`)
    } catch (error) {
      abandon()
      throw error
    } finally {
      signal.removeEventListener('abort', abandon)
    }
    return { ended, ping: () => client.query('SELECT 1'), close: () => client.end() }
  }
}
