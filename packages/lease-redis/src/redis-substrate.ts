/**
 * The substrate on Redis: a batch becomes one run of one script (`apply-script.ts`), and each operation's part of the answer a
 * verdict.
 *
 * - *Verdicts are facts of one atomic step* on the master, by its own clock. Operations fail one by one.
 * - *Nothing is done too late.* ioredis sends again after a reconnection what had no answer, even a command whose caller
 *   was told long ago that it timed out: a lease that nobody knows of would be held for its whole duration. So every
 *   batch carries the server time after which it does nothing (`server-time.ts`).
 * - *Only reads from the master count*; a replica may be behind.
 */
import {
  granted,
  HintStream,
  refused,
  systemClock,
  unknown,
  type AnyVerdict,
  type Call,
  type ClaimAnyOp,
  type ClaimOp,
  type Clock,
  type Holding,
  type LeaseChange,
  type Op,
  type Substrate,
  type SubstrateWarning,
  type Trapdoor,
  type Verdict,
} from 'lease-core'
import { applyScript, LATE } from './apply-script.ts'
import { claimAnyScript } from './claim-any-script.ts'
import { evaluate, explained } from './connection.ts'
import type { RedisConnection } from './driver.ts'
import { redisTrapdoor } from './guard.ts'
import { Keys } from './keys.ts'
import { likeTheConnection, listenTo } from './listener.ts'
import { checkOptions, type RedisSubstrateOptions } from './options.ts'
import {
  FAILED,
  FIELDS,
  GRANTED,
  HELD,
  inspectScript,
  PINNED,
  pinnedScript,
  readScript,
  scanScript,
  type Script,
} from './script.ts'
import { ServerTime } from './server-time.ts'
import { inspectionWarnings } from './warnings.ts'

/**
 * While a script runs nobody else is served: a batch of the largest size takes the server a millisecond. Few operations
 * are worth a run of their own already, as the server is at one while this process is at another.
 */
const limits: Substrate['limits'] = { maxOps: 128, maxInFlight: 4, enoughOps: 8 }

/** How many names of the index one step of a full read looks at: about a millisecond of the server's time. */
const NAMES_PER_STEP = 500

/** One lease, or one verdict, in an answer: FIELDS elements. */
type Fields = readonly [
  code: number | string,
  token: string | null,
  expiryMs: number | string,
  holder: string | null,
  value: string | null,
]

export class RedisSubstrate implements Substrate {
  readonly watch?: (listener: (change: LeaseChange) => void) => () => void
  readonly #redis: RedisConnection
  readonly #keys: Keys
  readonly #clock: Clock
  readonly #serverTime: ServerTime
  readonly #hints: HintStream | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: RedisSubstrateOptions) {
    checkOptions(options, { client: false })
    const { redis, namespace, prefix = 'lease', listen, clock = systemClock } = options
    this.#redis = redis
    this.#keys = new Keys(prefix, namespace, redis.options?.keyPrefix ?? '')
    this.#clock = clock
    this.#serverTime = new ServerTime(clock)
    if (listen !== false) {
      const hints = new HintStream({
        clock,
        connect: listenTo(this.#keys.channel, listen ?? (() => likeTheConnection(redis))),
      })
      this.#hints = hints
      this.watch = (listener) => hints.watch(listener)
    }
  }

  get limits(): Substrate['limits'] {
    return limits
  }

  async apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    const leases = ops.map(({ lease }) => lease)
    const answer = await this.#inTime(applyScript, leases, argumentsOf(ops), call)
    const words = String(answer[1]).split(' ')
    let at = 2
    const verdicts = ops.map((op, position) => {
      const word = words[position] as string
      if (word !== '') return asUsual(op, word, answer[0])
      const verdict = verdictOf(op, answer, at)
      at += FIELDS
      return verdict
    })
    for (; at < answer.length; at += 3) {
      const position = Number(answer[at])
      const line = { place: Number(answer[at + 1]), served: Number(answer[at + 2]) }
      verdicts[position] = { ...(verdicts[position] as Verdict), line }
    }
    return verdicts
  }

  async claimAny(op: ClaimAnyOp, call: Call): Promise<AnyVerdict> {
    const { leases, holder } = op
    const args = atLength({ kind: 'claim', ...op, lease: '', lapsed: undefined })
    const answer = await this.#inTime(claimAnyScript, leases, args, call)
    const holdings = new Map<string, Holding>()
    for (const [position, lease] of leases.entries()) {
      const holding = holdingOf(fieldsAt(answer, 1 + position * FIELDS), answer[0], holder)
      if (holding !== undefined) holdings.set(lease, holding)
    }
    const chosen = Number(answer.at(-1))
    const code = Number(answer[1 + chosen * FIELDS])
    const outcome = chosen >= 0 && (code & GRANTED) !== 0 ? 'granted' : 'refused'
    return { outcome, lease: leases[chosen], holdings }
  }

  async read(leases: readonly string[] | undefined): Promise<ReadonlyMap<string, Holding>> {
    const { index, tokens, pins } = this.#keys
    const holdings = new Map<string, Holding>()
    if (leases !== undefined) {
      const keys = [tokens, pins, ...leases.map((lease) => this.#keys.lease(lease))]
      const answer = await this.#timed(readScript, keys, [])
      for (const [position, lease] of leases.entries()) {
        const holding = holdingOf(fieldsAt(answer, 1 + position * FIELDS), answer[0])
        if (holding !== undefined) holdings.set(lease, holding)
      }
      return holdings
    }
    for (let cursor = '0'; ;) {
      const answer = await this.#timed(scanScript, [tokens, pins, index], [cursor, NAMES_PER_STEP])
      for (let at = 2; at < answer.length; at += 1 + FIELDS) {
        const holding = holdingOf(fieldsAt(answer, at + 1), answer[0])
        if (holding !== undefined) holdings.set(String(answer[at]), holding)
      }
      cursor = String(answer[1])
      if (cursor === '0') return holdings
    }
  }

  async pinned(): Promise<ReadonlyMap<string, readonly string[]>> {
    const { tokens, pins } = this.#keys
    const answer = (await this.#run(pinnedScript, [tokens, pins], [])) as string[]
    const pinned = new Map<string, readonly string[]>()
    for (let at = 0; at < answer.length; at += 2) {
      pinned.set(String(answer[at]), (JSON.parse(String(answer[at + 1])) as string[]).toSorted())
    }
    return pinned
  }

  async inspect(): Promise<readonly SubstrateWarning[]> {
    const { tokens, channel } = this.#keys
    return inspectionWarnings((await this.#run(inspectScript, [tokens], [channel])) as string[])
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return redisTrapdoor({ key: this.#keys.fullLease(lease), lease, holder, fencingToken })
  }

  async close(): Promise<void> {
    await this.#hints?.close()
  }

  /** Runs a script that changes something, unless it comes too late. */
  async #inTime(script: Script, leases: readonly string[], args: readonly string[], call: Call): Promise<unknown[]> {
    const deadlineMs = this.#clock.monotonic() + call.timeoutMs
    const { index, tokens, pins, channel } = this.#keys
    // Nothing to do: it tells the time of the very server that the operations will go to.
    if (!this.#serverTime.known) await this.#timed(applyScript, [index, tokens, pins], ['0', channel, ''])
    const keys = [index, tokens, pins]
    for (const lease of leases) keys.push(this.#keys.lease(lease))
    for (let attempt = 1; ; attempt++) {
      const notAfter = String(this.#serverTime.latestMicros(deadlineMs))
      const answer = await this.#timed(script, keys, [notAfter, channel, ...args])
      if (answer[1] !== LATE) return answer
      // In time by our clock, late by the server's: that one was set, or it is another server. Its answer told the time.
      if (attempt === 2 || this.#clock.monotonic() >= deadlineMs) {
        throw new Error('the request reached the server after its time, and nothing was done')
      }
    }
  }

  /** Runs a script whose answer begins with the server's time, and learns from that. */
  async #timed(script: Script, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown[]> {
    const sentMs = this.#clock.monotonic()
    const answer = (await this.#run(script, keys, args)) as unknown[]
    this.#serverTime.learn(Number(answer[0]), sentMs)
    return answer
  }

  #run(script: Script, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown> {
    return evaluate(this.#redis, script, keys, args).catch((error: unknown) => {
      throw explained(error)
    })
  }
}

/** A line for each operation, then those that need more words: as `applyScript` documents. */
function argumentsOf(ops: readonly Op[]): string[] {
  const args = ['']
  let lines = ''
  for (const op of ops) {
    const line = lineOf(op)
    lines += line ?? 'L * * *\n'
    if (line === undefined) args.push(...atLength(op))
  }
  args[0] = lines
  return args
}

/** Undefined: it needs more words. */
function lineOf(op: Op): string | undefined {
  if (op.kind === 'claim') {
    if (op.value !== undefined || op.place !== undefined || op.announce === true) return undefined
    return `C ${milliseconds(op.durationMs)} ${op.nonce} ${op.holder}\n`
  }
  if (op.kind === 'extend' && op.value === undefined) {
    return `E ${op.fencingToken ?? '*'} ${milliseconds(op.durationMs)} ${op.holder}\n`
  }
  if (op.kind === 'release') return `R ${op.fencingToken ?? '*'} ${op.nonce ?? '*'} ${op.holder}\n`
  return undefined
}

/** What became of an operation whose line was answered by one word. */
function asUsual(op: Op, word: string, serverMicros: unknown): Verdict {
  if (op.kind === 'claim') {
    const expiryMs = Math.floor(Number(serverMicros) / 1000) + Math.ceil(op.durationMs)
    return granted(plainTerm(op.holder, BigInt(word), remaining(expiryMs, serverMicros)))
  }
  if (op.kind === 'extend')
    return granted(plainTerm(op.holder, op.fencingToken as bigint, remaining(word, serverMicros)))
  return vacated
}

const vacated = granted(undefined)

/** Unpinned and without a value, as most are. */
function plainTerm(holder: string, fencingToken: bigint, remainingMs: number): Holding {
  return { holder, fencingToken, remainingMs, value: undefined, pinned: false, version: undefined }
}

/** The words of an operation that is told at length, in the order that `applyScript` documents. */
function atLength(op: Op): string[] {
  switch (op.kind) {
    case 'claim': {
      const words = [claimOf(op), op.holder, op.nonce, milliseconds(op.durationMs), optional(op.value)]
      return op.place === undefined ? words : [...words, String(op.place)]
    }
    case 'extend':
      return [
        op.announce === true ? 'e' : 'E',
        op.holder,
        String(op.fencingToken ?? ''),
        milliseconds(op.durationMs),
        optional(op.value),
      ]
    case 'release':
      return ['R', op.holder, String(op.fencingToken ?? ''), op.nonce ?? '']
    case 'expire':
      return ['X']
    case 'pin':
    case 'unpin':
      break
  }
  return [op.kind === 'pin' ? 'P' : 'U', op.entity]
}

function claimOf({ place, announce }: ClaimOp): string {
  const kind = place === undefined ? 'C' : 'W'
  return announce === true ? kind.toLowerCase() : kind
}

/** Rounded up: never a shorter lease than asked for. */
function milliseconds(durationMs: number): string {
  return String(Math.ceil(durationMs))
}

function optional(value: string | undefined): string {
  return value === undefined ? '' : `=${value}`
}

function verdictOf(op: Op, answer: readonly unknown[], at: number): Verdict {
  const fields = fieldsAt(answer, at)
  const code = Number(fields[0])
  if (code === FAILED) return unknown(explained(new Error(String(fields[1]))))
  const holding = holdingOf(fields, answer[0], 'holder' in op ? op.holder : undefined)
  return (code & GRANTED) === 0 ? refused(holding) : granted(holding)
}

function fieldsAt(answer: readonly unknown[], at: number): Fields {
  return answer.slice(at, at + FIELDS) as unknown as Fields
}

/** A key is gone a millisecond after the one it expires in. */
function remaining(expiryMs: unknown, serverMicros: unknown): number {
  return Number(expiryMs) + 1 - Number(serverMicros) / 1000
}

/** @param asked who holds it where the answer leaves that out */
function holdingOf(
  [code, token, expiryMs, holder, value]: Fields,
  serverMicros: unknown,
  asked?: string,
): Holding | undefined {
  if ((Number(code) & HELD) === 0) return undefined
  const pinned = (Number(code) & PINNED) !== 0
  let remainingMs = remaining(expiryMs, serverMicros)
  if (remainingMs <= 0 && !pinned) remainingMs = Number.MIN_VALUE
  return {
    holder: holder ?? asked ?? '',
    fencingToken: BigInt(String(token)),
    remainingMs,
    value: value?.slice(1),
    pinned,
    version: undefined,
  }
}
