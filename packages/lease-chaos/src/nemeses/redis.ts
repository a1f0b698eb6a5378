/** What may befall a Redis server by its own commands: one server, a node of a cluster, or the master that Sentinels watch. */
import { type Address, type Redis as RunningRedis, redisCommand, redisCommands, until } from 'lease-servers'
import { Redis } from 'ioredis'
import type { Battle, ReportLoss } from '../ground.ts'
import { nowMs } from '../recorder.ts'
import type { ProcessShim } from '../shim.ts'
import { between, fault, type Fault, lasting, type Mend, oneOf, repeatedly, type Span } from './strike.ts'

const USUAL: Span = { fromMs: 800, toMs: 4000 }
/** A pause cannot be ended, so a long one is many short ones. */
const SLICE_MS = 150

/** @param server the one to be hit now. @param pauses how long it may stand still */
export function redisNemeses(
  server: () => Address | Promise<Address>,
  pauses: Span = { fromMs: 100, toMs: 3500 },
): readonly Fault[] {
  return [
    standstill('redis-pause', server, pauses, (ms, battle) => {
      const mode = oneOf(battle, ['WRITE', 'ALL'])
      return ['CLIENT', 'PAUSE', ms, mode]
    }),
    standstill('redis-debug-sleep', server, pauses, (ms) => ['DEBUG', 'SLEEP', ms / 1000]),
    fault('redis-client-kill', { breaks: 'server', lasts: USUAL }, async (battle, say) => {
      const address = await server()
      const type = oneOf(battle, ['normal', 'pubsub'])
      say(type)
      return repeatedly(battle, { fromMs: 100, toMs: 1000 }, async () => {
        await redisCommand(address, 'CLIENT', 'KILL', 'TYPE', type, 'SKIPME', 'yes')
      })
    }),
    fault('redis-script-flush', { breaks: 'server', lasts: USUAL }, async (battle) => {
      const address = await server()
      return repeatedly(battle, { fromMs: 20, toMs: 300 }, async () => {
        await redisCommand(address, 'SCRIPT', 'FLUSH', 'SYNC')
      })
    }),
    fault('redis-save', { breaks: 'server', lasts: { fromMs: 0, toMs: 500 } }, async (battle, say) => {
      const address = await server()
      const command = oneOf(battle, ['BGSAVE', 'BGREWRITEAOF', 'SAVE'])
      say(command)
      // Refused while another one is under way.
      await redisCommand(address, command).catch((error: unknown) => say(String(error)))
      return () => undefined
    }),
    fault('redis-maxmemory', { breaks: 'server', lasts: USUAL }, async (_, say) => {
      say('1mb')
      return configured(await server(), 'maxmemory', '1mb')
    }),
    fault('redis-config', { breaks: 'server', lasts: USUAL }, async (battle, say) => {
      const [name, value] = oneOf<readonly [string, string]>(battle, [
        ['min-replicas-to-write', '7'],
        ['maxclients', '1'],
        ['timeout', '1'],
        ['appendonly', 'no'],
        ['appendfsync', 'no'],
        ['notify-keyspace-events', 'KEA'],
        ['slowlog-log-slower-than', '0'],
      ])
      say(`${name} ${value}`)
      return configured(await server(), name, value)
    }),
    fault('redis-flushall', { breaks: 'server', lasts: USUAL, isControl: true }, async (battle) => {
      const address = await server()
      return repeatedly(battle, { fromMs: 200, toMs: 1000 }, async () => {
        await redisCommand(address, 'FLUSHALL', 'SYNC')
      })
    }),
  ]
}

/** A disk so slow that each fsync is still under way when the next one is due. */
const SLOW_FSYNC_MS = 5_000

/**
 * Under `appendfsync everysec` Redis answers before its log is on the disk, and while an fsync is under way it does not even write the
 * log, for up to two seconds. A kill then loses what was answered.
 */
export function everysecKill(server: RunningRedis, shim: ProcessShim, lost: ReportLoss): Fault {
  const lasts = { fromMs: 0, toMs: 500 }
  return fault('redis-everysec-kill', { breaks: 'server', lasts, isControl: true }, async (battle) => {
    const address = { host: '127.0.0.1', port: server.port }
    const fromMs = nowMs()
    await redisCommand(address, 'CONFIG', 'SET', 'appendfsync', 'everysec')
    shim.fsyncMs = SLOW_FSYNC_MS
    try {
      await lasting(battle, between(battle, { fromMs: 1500, toMs: 3500 }))
      await server.kill()
    } finally {
      shim.fsyncMs = 0
    }
    lost({ what: 'redis-everysec-kill', fromMs, toMs: nowMs() })
    // It starts with its own settings again.
    return async () => server.restart()
  })
}

/** A server that stands still by a command, which is repeated until the fault ends. */
function standstill(
  name: string,
  server: () => Address | Promise<Address>,
  lasts: Span,
  command: (ms: number, battle: Battle) => readonly (string | number)[],
): Fault {
  return fault(name, { breaks: 'server', lasts: { fromMs: 0, toMs: 0 } }, async (battle, say) => {
    const address = await server()
    const words = command(SLICE_MS, battle)
    say(words.join(' '))
    const untilMs = performance.now() + between(battle, lasts)
    // The next one waits for the end of the one before.
    while (!battle.signal.aborted && performance.now() < untilMs) {
      await redisCommands(address, [words])
      if (words[0] === 'CLIENT') await lasting(battle, SLICE_MS)
    }
    return () => undefined
  })
}

/** Changes a setting; the mend restores what was there. */
async function configured({ host, port }: Address, name: string, value: string): Promise<Mend> {
  // A connection that stays: where few clients are permitted, another one would not be let in. Where it is idle for too long, it returns.
  const redis = new Redis({ host, port, maxRetriesPerRequest: null })
  redis.on('error', () => undefined)
  const [, old = ''] = (await redis.config('GET', name)) as readonly string[]
  await redis.config('SET', name, value)
  return async () => {
    await redis.config('SET', name, old)
    // What is written during this is in no file until this is over: a kill would lose it.
    if (name === 'appendonly') await until('the append-only file is complete', async () => isRewritten(redis))
    redis.disconnect()
  }
}

async function isRewritten(redis: Redis): Promise<boolean> {
  const info = await redis.info('persistence')
  return info.includes('aof_rewrite_in_progress:0') && info.includes('aof_rewrite_scheduled:0')
}
