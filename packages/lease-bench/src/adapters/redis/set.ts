/**
 * The least that one could write: SET NX PX, and scripts that extend or delete only the caller's own key. No fencing token,
 * no lost reply that resolves to "it was mine", no refusal that says who has it, no announcement, no guard.
 */
import { randomUUID } from 'node:crypto'
import type { ChainableCommander, Redis } from 'ioredis'
import type { Adapter } from '../../bench.ts'
import { batches, batchName, inBatches, LONG_MS, type ByHand } from '../by-hand.ts'
import { openRedis } from './connection.ts'

const ifMine = (command: string): string =>
  `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call(${command}) else return 0 end`
const scripts = {
  benchDelete: { numberOfKeys: 1, lua: ifMine(`'DEL', KEYS[1]`) },
  benchExtend: { numberOfKeys: 1, lua: ifMine(`'PEXPIRE', KEYS[1], ARGV[2]`) },
}

interface WithScripts<Result> {
  benchDelete(key: string, holder: string): Result
  benchExtend(key: string, holder: string, ms: number): Result
}

/** One command per claim. */
export const redisSet: Adapter = {
  name: 'set',
  role: 'raw',
  about: 'SET NX PX, and a script that compares and deletes',
  can: ['one'],
  async open({ url }) {
    const { redis, keyOf, close } = await connected(url)
    return {
      one: {
        claim: async (lease) => must(await redis.set(keyOf(lease), holder, 'PX', LONG_MS, 'NX'), 'OK'),
        release: async (lease) => must(await redis.benchDelete(keyOf(lease), holder), 1),
      },
      close,
    }
  },
}

/** One pipeline for the claims of all callers. */
export const redisSetBatch: Adapter = {
  name: batchName('set', 1),
  role: 'raw',
  about: `the same commands in pipelines, ${batches(1)}`,
  can: ['many'],
  open: async ({ url }) => inBatches(pipelined(await connected(url)), 1),
}

const holder = 'bench'

function pipelined({ redis, keyOf, close }: Connected): ByHand {
  const send = async (
    leases: readonly string[],
    add: (pipeline: Pipeline, key: string) => unknown,
    wanted: unknown,
  ): Promise<void> => {
    const pipeline = redis.pipeline() as Pipeline
    for (const lease of leases) add(pipeline, keyOf(lease))
    for (const [error, answer] of (await pipeline.exec()) ?? []) {
      if (error) throw error
      must(answer, wanted)
    }
  }
  return {
    claim: (leases) => send(leases, (pipeline, key) => pipeline.set(key, holder, 'PX', LONG_MS, 'NX'), 'OK'),
    extend: (leases) => send(leases, (pipeline, key) => pipeline.benchExtend(key, holder, LONG_MS), 1),
    release: (leases) => send(leases, (pipeline, key) => pipeline.benchDelete(key, holder), 1),
    close,
  }
}

type Pipeline = ChainableCommander & WithScripts<ChainableCommander>

interface Connected {
  readonly redis: Redis & WithScripts<Promise<unknown>>
  readonly keyOf: (lease: string) => string
  readonly close: () => Promise<void>
}

async function connected(url: string): Promise<Connected> {
  const redis = await openRedis(url)
  for (const [name, script] of Object.entries(scripts)) redis.defineCommand(name, script)
  const prefix = randomUUID()
  return {
    redis: redis as Connected['redis'],
    keyOf: (lease) => `${prefix}:${lease}`,
    close: async () => redis.disconnect(),
  }
}

function must(answer: unknown, wanted: unknown): void {
  if (answer !== wanted) throw new Error(`the answer was ${String(answer)}, not ${String(wanted)}`)
}
