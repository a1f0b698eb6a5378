/** What may befall a pgbouncer, by its console and by signals. */
import type { Pgbouncer } from 'lease-servers'
import { Client } from 'pg'
import { fault, type Fault, type Mend, oneOf } from './strike.ts'

const WAYS = ['RECONNECT', 'KILL', 'PAUSE', 'stop', 'kill', 'restart'] as const

/** @param database that the workers use */
export function bouncerNemeses(bouncer: Pgbouncer, database: string): readonly Fault[] {
  const say = async (...statements: readonly string[]): Promise<void> => askConsole(bouncer, statements)
  const begin: Record<(typeof WAYS)[number], () => Mend | Promise<Mend>> = {
    RECONNECT: async () => {
      await say('RECONNECT')
      return () => undefined
    },
    KILL: async () => {
      await say(`KILL ${database}`)
      return async () => say(`RESUME ${database}`)
    },
    // PAUSE answers when all transactions are over, and this one waits for no worker.
    PAUSE: () => {
      const paused = say('PAUSE').catch(() => undefined)
      return async () => {
        await say('RESUME')
        await paused
      }
    },
    stop: () => {
      bouncer.pause()
      return () => bouncer.resume()
    },
    kill: async () => {
      await bouncer.kill()
      return async () => bouncer.restart()
    },
    restart: async () => {
      await bouncer.restart()
      return () => undefined
    },
  }
  return [
    fault('bouncer', { breaks: 'server', lasts: { fromMs: 100, toMs: 2500 } }, async (battle, note) => {
      const way = oneOf(battle, WAYS)
      note(way)
      return begin[way]()
    }),
  ]
}

/** The console knows simple queries only. */
async function askConsole(bouncer: Pgbouncer, statements: readonly string[]): Promise<void> {
  const client = new Client({ connectionString: bouncer.consoleUrl })
  client.on('error', () => undefined)
  await client.connect()
  try {
    for (const statement of statements) await client.query(statement)
  } finally {
    await client.end()
  }
}
