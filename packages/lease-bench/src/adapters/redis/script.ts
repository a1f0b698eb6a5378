/** The library's own script, run by hand: one lease at a time, or many. */
import { randomUUID } from 'node:crypto'
import type { Redis } from 'ioredis'
import { RedisSubstrate, type RedisConnection } from 'lease-redis'
import type { Adapter } from '../../bench.ts'
import { batches, batchName, inBatches, LONG_MS, oneByOne, type ByHand } from '../by-hand.ts'
import { record, specimen, type Kind } from '../recorded.ts'
import { openRedis } from './connection.ts'

/** One run of the script per claim. */
export const redisScript: Adapter = {
  name: 'script',
  role: 'raw',
  about: `the library's script by hand, one run per claim`,
  can: ['one'],
  open: async ({ url }) => oneByOne(await byHand(url)),
}

/** One run of the script for the claims of as many callers as the library would put into it. */
export function redisScriptBatch({ inFlight }: { readonly inFlight: number }): Adapter {
  return {
    name: batchName('script', inFlight),
    ...(inFlight > 1 && { isDetail: true as const }),
    role: 'raw',
    about: `the library's script by hand, ${batches(inFlight)}`,
    can: ['many'],
    open: async ({ url }) => inBatches(await byHand(url), inFlight),
  }
}

/** EVALSHA as it was sent: index, tokens and pins, one key per operation; two times, channel, client and mode, a line for each, a mark. */
interface Sent {
  readonly sha: string
  readonly keys: readonly string[]
  readonly args: readonly string[]
}
const SHARED_KEYS = 3
const LINES = 5
/** In the answer: the words by which each operation is answered, of a claim its fencing token. */
const WORDS = 1
/** By which the library knows an answer of its own; here nobody else uses the connection. */
const MARK = 'bench'

async function byHand(url: string): Promise<ByHand> {
  const redis = await openRedis(url)
  const namespace = randomUUID()
  let atMost = 0
  const templates = await record<Sent>((sent) => {
    const substrate = recording(redis, namespace, sent)
    atMost = substrate.limits.maxOps
    return substrate
  }, LONG_MS)
  const tokens = new Map<string, string>()
  const nonceOf = new Map<string, string>()
  let nonces = 0
  const send = async (kind: Kind, leases: readonly string[]): Promise<void> => {
    const { request, fencingToken } = templates[kind]
    const keys = request.keys.slice(0, SHARED_KEYS)
    const [own = ''] = request.keys.slice(SHARED_KEYS)
    const prefix = own.slice(0, -specimen.lease.length)
    const line = (request.args[LINES] ?? '').split(' ')
    const [token, nonce] = [line.indexOf(fencingToken), line.indexOf(specimen.nonce)]
    let lines = ''
    for (const lease of leases) {
      keys.push(prefix + lease)
      if (kind === 'claim') nonceOf.set(lease, `n${nonces++}`)
      else line[token] = tokens.get(lease) ?? ''
      if (nonce >= 0) line[nonce] = nonceOf.get(lease) ?? ''
      lines += line.join(' ')
    }
    const args = [...request.args.slice(0, LINES), lines, MARK]
    const [answer] = (await redis.evalsha(request.sha, keys.length, ...keys, ...args)) as [unknown[], string]
    const words = String(answer[WORDS]).split(' ')
    leases.forEach((lease, index) => {
      const word = words[index]
      if (word === undefined || word === '') throw new Error(`${kind} of ${lease}: not granted`)
      if (kind === 'claim') tokens.set(lease, word)
    })
  }
  return {
    atMost,
    claim: (leases) => send('claim', leases),
    extend: (leases) => send('extend', leases),
    release: (leases) => send('release', leases),
    close: async () => redis.disconnect(),
  }
}

/** An adapter that puts what it sends into the list. */
function recording(redis: Redis, namespace: string, sent: Sent[]): RedisSubstrate {
  const connection: RedisConnection = {
    eval: (...request) => redis.eval(...request),
    evalsha(sha, count, ...rest) {
      const words = rest.map(String)
      sent.push({ sha, keys: words.slice(0, count), args: words.slice(count) })
      return redis.evalsha(sha, count, ...rest)
    },
    duplicate: () => redis.duplicate(),
  }
  return new RedisSubstrate({ namespace, listen: false, redis: connection })
}
