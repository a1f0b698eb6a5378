/** A connection to a single Redis that closes when the server stops answering. */
import { Redis } from 'ioredis'

/** When a command has no answer for this long, ioredis closes the connection and opens a new one. */
export function openRedis(url: string, silenceMs: number = 5_000): Redis {
  return new Redis(url, { socketTimeout: silenceMs })
}
