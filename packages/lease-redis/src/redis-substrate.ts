/**
 * The substrate on Redis: a batch becomes one run of one script (`apply-script.ts`), and each operation's part of the answer a
 * verdict.
 *
 * - *Verdicts are facts of one atomic step* on the master, by its own clock. Operations fail one by one.
 * - *Nothing is done too late, or twice.* ioredis sends again after a reconnection what had no answer, even a command whose
 *   caller heard long ago that it timed out, and the first copy may arrive last. So every batch carries the server time after
 *   which it does nothing, and the server time at which it was sent, with which the script compares what it remembers.
 * - *Only reads from the master count*; a replica may be behind.
 */
import { systemClock, type LeaseChange, type Trapdoor } from 'lease-core'
import {
  contended,
  granted,
  HintStream,
  late,
  LONGEST_DEADLINE_MS,
  OncePerLease,
  refused,
  unknown,
  warnOfNoHints,
  type Call,
  type ClaimOp,
  type Counted,
  type Holding,
  type Op,
  type OpenHintConnection,
  type Pins,
  type Substrate,
  type SubstrateWarning,
  type Verdict,
} from 'lease-core/adapter'
import { applyScript, TOO_LATE } from './apply-script.ts'
import { anotherBy, asIoredis } from './as-ioredis.ts'
import { databaseOf, explained, NoAnswer } from './connection.ts'
import { redisTrapdoor } from './guard.ts'
import { COUNTED, FULL, readScript, TOLD_UP_TO, waitingScript, watchAllScript } from './interest-script.ts'
import { Keys } from './keys.ts'
import { listenTo } from './listener.ts'
import { parseOptions, type RedisSubstrateOptions } from './options.ts'
import {
  CONTENDED,
  FAILED,
  FIELDS,
  GRANTED,
  HELD,
  inDatabase,
  inspectScript,
  LATE,
  PINNED,
  pinnedScript,
  scanScript,
  type Script,
} from './script.ts'
import { countedScript } from './shares-script.ts'
import { SteadyConnection } from './steady-connection.ts'
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
  stamp: string | null,
  holder: string | null,
  value: string | null,
]

export class RedisSubstrate implements Substrate {
  readonly watch?: (listener: (change: LeaseChange) => void, client?: string) => () => void
  readonly store: NonNullable<Substrate['store']>
  readonly #redis: object
  readonly #connection: SteadyConnection
  readonly #keys: Keys
  /** Where the leases are, for good; undefined: where the connection is, which does not say. */
  readonly #database: number | undefined
  /** Of what clients have asked for, each on a channel of its own, and of everything. */
  readonly #hints = new Map<string, HintStream>()
  /** A PUBLISH does not tell how many heard it: they may listen at another node. */
  readonly #isCluster: boolean
  readonly #warn: (warning: SubstrateWarning) => void
  /** Leases that a warning has named. */
  readonly #unreadable = new OncePerLease()
  #closed = false

  /**
   * @param warn takes what comes up later than `inspect`
   * @throws ErrNotValid with every problem
   */
  constructor(options: RedisSubstrateOptions, warn: (warning: SubstrateWarning) => void = () => {}) {
    this.#warn = warn
    const read = parseOptions(options, { client: false })
    const { namespace, prefix = 'lease', listen, clock = systemClock } = read
    const redis = asIoredis(read.redis)
    this.store = { system: 'redis', namespace }
    this.#redis = redis
    this.#connection = SteadyConnection.over(redis, clock, anotherBy(read.redis, listen))
    this.#database = databaseOf(redis)
    this.#isCluster = 'nodes' in redis || ('isCluster' in redis && redis.isCluster === true)
    this.#keys = new Keys(prefix, namespace, redis.options?.keyPrefix ?? '', this.#database)
    if (listen !== false) {
      const source = listen ?? redis
      this.watch = (listener, client) => {
        const channel = this.#keys.channelOf(client)
        let hints = this.#hints.get(channel)
        if (hints === undefined) {
          const connect = listenTo(channel, source)
          hints = new HintStream({
            clock,
            connect: client === undefined ? this.#watchingAll(connect) : connect,
            failed: warnOfNoHints(warn, explained),
          })
          this.#hints.set(channel, hints)
        }
        return hints.watch(listener)
      }
    }
  }

  get page(): string {
    return 'docs/substrates/redis.md'
  }

  trouble(): unknown {
    return explained(this.#connection.trouble)
  }

  get limits(): Substrate['limits'] {
    return limits
  }

  /** Asks the very master that the scripts go to, and for the right to write there. Fails where a newer layout is stored. */
  async time(call: Call): Promise<number> {
    const [serverMicros] = await this.#change([], [''], call)
    return Number(serverMicros) / 1000
  }

  async apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    const leases = ops.map(({ lease }) => lease)
    const answer = await this.#change(leases, argumentsOf(ops), call)
    if (answer[1] === TOO_LATE) return ops.map(() => late)
    const words = String(answer[1]).split(' ')
    let at = 2
    const atLengthToo = words.filter((word) => word === '').length
    if (words.length !== ops.length || answer.length < at + atLengthToo * FIELDS) throw new NoAnswer(answer)
    const verdicts = ops.map((op, position) => {
      const word = words[position] as string
      if (word !== '') return asUsual(op, word, answer[0])
      const verdict = verdictOf(op, answer, at)
      at += FIELDS
      return verdict
    })
    for (; at < answer.length; at += 3) {
      const position = Number(answer[at])
      verdicts[position] = { ...(verdicts[position] as Verdict), ...newsOf(answer[at + 1], answer[at + 2], answer[0]) }
    }
    return verdicts
  }

  async read(
    leases: readonly string[] | undefined,
    call: Call,
    watched: readonly string[] = [],
  ): Promise<ReadonlyMap<string, Holding>> {
    const { index, tokens, pins } = this.#keys
    const holdings = new Map<string, Holding>()
    if (leases !== undefined) {
      const keys = [tokens, pins, ...leases.map((lease) => this.#keys.lease(lease))]
      const answer = await this.#run(readScript, keys, [call.client, ...watched], call)
      if (answer.length !== 1 + leases.length * FIELDS) throw new NoAnswer(answer)
      for (const [position, lease] of leases.entries()) {
        const fields = fieldsAt(answer, 1 + position * FIELDS)
        if (Number(fields[0]) === FAILED) this.#passOver(lease)
        const holding = holdingOf(lease, fields, answer[0])
        if (holding !== undefined) holdings.set(lease, holding)
      }
      return holdings
    }
    const step = (cursor: string): Promise<readonly unknown[]> =>
      this.#run(scanScript, [tokens, pins, index], [cursor, NAMES_PER_STEP], call)
    for (let answer = await step('0'); ;) {
      const cursor = String(answer[1])
      // The server looks for the next ones while these are read.
      const next = cursor === '0' ? undefined : step(cursor)
      next?.catch(ignore) // where one of these cannot be read, nobody waits for it
      for (let at = 2; at < answer.length; at += 1 + FIELDS) this.#readNamed(answer, at, holdings)
      if (next === undefined) return holdings
      answer = await next
    }
  }

  /** All shares as they were at one instant, up to `NAMES_PER_STEP`; of more, each as it was when it was read. */
  async counted(lease: string, call: Call): Promise<Counted> {
    const { tokens, pins } = this.#keys
    const answer = await this.#run(countedScript, [tokens, pins], [lease, NAMES_PER_STEP], call)
    const [, definition, count] = answer
    const restAt = 3 + Number(count) * (1 + FIELDS)
    if (!(answer.length >= restAt)) throw new NoAnswer(answer)
    const shares = new Map<string, Holding>()
    for (let at = 3; at < restAt; at += 1 + FIELDS) this.#readNamed(answer, at, shares)
    for (let at = restAt; at < answer.length; at += NAMES_PER_STEP) {
      const names = answer.slice(at, at + NAMES_PER_STEP).map((holder) => `${lease}${String(holder)}`)
      for (const [share, holding] of await this.read(names, call)) shares.set(share, holding)
    }
    const [capacity, generation] = String(definition).split(' ')
    return countedLease(capacity, generation, shares)
  }

  async waiting(lease: string, call: Call): Promise<number> {
    return Number((await this.#run(waitingScript, [this.#keys.tokens], [lease], call))[1])
  }

  /** A name, then its FIELDS. */
  #readNamed(answer: readonly unknown[], at: number, holdings: Map<string, Holding>): void {
    const [lease, fields] = [String(answer[at]), fieldsAt(answer, at + 1)]
    if (Number(fields[0]) === FAILED) this.#passOver(lease)
    const holding = holdingOf(lease, fields, answer[0])
    if (holding !== undefined) holdings.set(lease, holding)
  }

  async pinned(call: Call, leases: readonly string[] = []): Promise<ReadonlyMap<string, Pins>> {
    const { tokens, pins } = this.#keys
    const answer = await this.#run(pinnedScript, [tokens, pins], leases, call)
    const pinned = new Map<string, Pins>()
    for (let at = 1; at < answer.length; at += 3) {
      const pins = pinsOf(String(answer[at + 1]), answer[at + 2] as string | null)
      if (pins === undefined) this.#passOver(String(answer[at]))
      else pinned.set(String(answer[at]), pins)
    }
    return pinned
  }

  async inspect(call?: Call): Promise<readonly SubstrateWarning[]> {
    const { tokens, channel } = this.#keys
    const answer = await this.#evaluate(inspectScript, [tokens], [channel, this.#keys.channelOf(call?.client)], call)
    if (!Array.isArray(answer)) throw new NoAnswer(answer)
    return inspectionWarnings(answer as string[])
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    const key = this.#keys.fullLease(lease)
    return redisTrapdoor({ key, database: this.#database, place: this.#redis, lease, holder, fencingToken })
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await Promise.all([...this.#hints.values()].map((hints) => hints.close()))
    this.#connection.close()
  }

  /** What cannot be read hides no other lease, and does not go unheard: once for each lease. */
  #passOver(lease: string): void {
    if (!this.#unreadable.isFirst(lease)) return
    this.#warn({
      warning: 'unreadable-key',
      message: `What is stored of lease ${JSON.stringify(lease)} is not a lease, and was passed over: nobody can claim it. Something else has written to the keys of this namespace. Remove what is there, or choose another prefix or namespace.`,
    })
  }

  /** While somebody listens to everything, the store knows it: from before the first hint counts. */
  #watchingAll(connect: OpenHintConnection): OpenHintConnection {
    const register = (): Promise<unknown> => this.#evaluate(watchAllScript, [this.#keys.index], [], undefined)
    return async (tell, signal) => {
      const connection = await connect(tell, signal)
      await register()
      return { ...connection, ping: () => Promise.all([connection.ping(), register()]) }
    }
  }

  /** Runs the script that changes something, if the server's clock does not forbid that. */
  #change(leases: readonly string[], args: readonly string[], call: Call): Promise<unknown[]> {
    const { index, tokens, pins, channel } = this.#keys
    const keys = [index, tokens, pins]
    for (const lease of leases) keys.push(this.#keys.lease(lease))
    const counts = this.#isCluster ? '1' : ''
    const context = [deadlineOf(call), micros(call.sentMs), channel, call.client, counts]
    return this.#run(applyScript, keys, [...context, ...args], call)
  }

  /** Runs a script whose answer begins with the server's time. */
  async #run(
    script: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
    call: Call,
  ): Promise<unknown[]> {
    const answer = await this.#evaluate(script, keys, args, call)
    if (!Array.isArray(answer) || !(Number(answer[0]) > 0)) throw new NoAnswer(answer)
    call.answered?.(Number(answer[0]) / 1000)
    return answer as unknown[]
  }

  #evaluate(
    script: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
    call: Call | undefined,
  ): Promise<unknown> {
    return this.#connection.run(inDatabase(script, this.#database), keys, args, call).catch((error: unknown) => {
      throw explained(error)
    })
  }
}

/** What the server remembers, it remembers for so long after the request was sent. */
function deadlineOf({ sentMs = Number.POSITIVE_INFINITY, notAfterMs = Number.POSITIVE_INFINITY }: Call): string {
  const deadlineMs = Math.min(notAfterMs, sentMs + LONGEST_DEADLINE_MS)
  return micros(Number.isFinite(deadlineMs) ? deadlineMs : undefined)
}

/** Whole ones; 0: unknown. */
function micros(ms: number | undefined): string {
  return ms === undefined ? '0' : String(Math.floor(ms * 1000))
}

/** A line for each operation, then those that need more words: as `applyScript` documents. */
function argumentsOf(ops: readonly Op[]): string[] {
  const args = ['']
  let lines = ''
  for (const op of ops) {
    const line = lineOf(op)
    lines +=
      line ?? (op.kind === 'define' || (op.kind === 'claim' && op.share !== undefined) ? 'N * * *\n' : 'L * * *\n')
    if (line === undefined) args.push(...atLength(op))
  }
  args[0] = lines
  return args
}

/** Undefined: it needs more words, or is not to be done in bulk: the counted lease of a share must learn of it. */
function lineOf(op: Op): string | undefined {
  if (op.kind === 'claim') {
    if (op.value !== undefined || op.place !== undefined || op.announce === true || op.share !== undefined)
      return undefined
    return `C ${milliseconds(op.durationMs)} ${op.nonce} ${op.holder}\n`
  }
  if (op.kind === 'extend' && op.value === undefined && op.adoption === undefined) {
    return `E ${op.fencingToken} ${milliseconds(op.durationMs)} ${op.holder}\n`
  }
  if (op.kind === 'release' && !op.lease.includes('#'))
    return `R ${op.fencingToken ?? '*'} ${op.nonce ?? '*'} ${op.holder}\n`
  return undefined
}

/** What became of an operation whose line was answered by one word. */
function asUsual(op: Op, word: string, serverMicros: unknown): Verdict {
  if (op.kind === 'claim') {
    const expiryMs = Math.floor(Number(serverMicros) / 1000) + Math.ceil(op.durationMs)
    return granted(plainTerm(op, BigInt(word), op.nonce, { remainingMs: remaining(expiryMs, serverMicros), ageMs: 0 }))
  }
  if (op.kind === 'extend') {
    const bar = word.indexOf('|')
    const remainingMs = remaining(word.slice(0, bar), serverMicros)
    const ageMs = age(op.fencingToken, serverMicros)
    return granted(plainTerm(op, op.fencingToken, word.slice(bar + 1, -1), { remainingMs, ageMs }))
  }
  return vacated
}

const vacated = granted(undefined)

/** What the script says of a queue, or of a counted lease. */
function newsOf(
  ticket: unknown,
  ahead: unknown,
  serverMicros: unknown,
): Pick<Verdict, 'ticket' | 'told' | 'isFull' | 'counted'> {
  if (Number(ahead) === COUNTED) {
    const [capacity, generation, share, ...fields] = ticket as readonly unknown[]
    const name = String(share)
    const holding = share === undefined ? undefined : holdingOf(name, fieldsAt(fields, 0), serverMicros)
    const shares = new Map(holding === undefined ? [] : [[name, holding] as const])
    return { counted: countedLease(capacity, generation, shares) }
  }
  const place = Number(ticket)
  if (Number(ahead) === FULL) return { isFull: true }
  return Number(ahead) === TOLD_UP_TO ? { told: place } : { ticket: { place, ahead: Number(ahead) } }
}

/** @param capacity '': it is not defined */
function countedLease(capacity: unknown, generation: unknown, shares: ReadonlyMap<string, Holding>): Counted {
  if (capacity === '') return { capacity: undefined, generation: undefined, shares }
  return { capacity: Number(capacity), generation: String(generation), shares }
}

/** Unpinned and without a value, as most are; of a share that weighs 1. */
function plainTerm(
  { holder, lease }: { readonly holder: string; readonly lease: string },
  fencingToken: bigint,
  nonce: string,
  { remainingMs, ageMs }: { readonly remainingMs: number; readonly ageMs: number },
): Holding {
  const weight = lease.includes('#') ? 1 : undefined
  return {
    holder,
    fencingToken,
    nonce,
    remainingMs,
    ageMs,
    value: undefined,
    pinned: false,
    version: undefined,
    weight,
  }
}

/** The words of an operation at length, in the order that `applyScript` documents. */
function atLength(op: Op): string[] {
  switch (op.kind) {
    case 'claim': {
      const { place = '', maxWaiters = '', share } = op
      const words = [claimOf(op), op.holder, op.nonce, milliseconds(op.durationMs), optional(op.value)]
      if (op.place === undefined && share === undefined) return words
      words.push(String(place), String(maxWaiters))
      if (share !== undefined) words.push(String(share.weight), String(share.capacity ?? ''), String(share.passing))
      return words
    }
    case 'extend': {
      const kind = op.adoption === undefined ? 'E' : 'A'
      const words = [
        op.announce === true ? kind.toLowerCase() : kind,
        op.holder,
        String(op.fencingToken),
        milliseconds(op.durationMs),
        optional(op.value),
      ]
      return op.adoption === undefined ? words : [...words, op.adoption.from ?? '', op.adoption.nonce]
    }
    case 'release':
      return ['R', op.holder, String(op.fencingToken ?? ''), op.nonce ?? '']
    case 'expire':
      return ['X']
    case 'leave':
      return ['Q', String(op.place ?? '')]
    case 'passOver':
      return ['O', String(op.place)]
    case 'define':
      return ['D', String(op.capacity ?? ''), op.from ?? '', op.generation]
    case 'pin':
    case 'unpin':
      break
  }
  return [op.kind === 'pin' ? 'P' : 'U', op.entity, op.generation]
}

function claimOf({ place, announce, share }: ClaimOp): string {
  const kind = share !== undefined ? 'S' : place === undefined ? 'C' : 'W'
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
  if (code === LATE) return late
  if (code === CONTENDED) return contended
  if (code === FAILED) return unknown(explained(new Error(String(fields[1]))))
  const holding = holdingOf(op.lease, fields, answer[0], 'holder' in op ? op.holder : undefined)
  return (code & GRANTED) === 0 ? refused(holding) : granted(holding)
}

function fieldsAt(answer: readonly unknown[], at: number): Fields {
  return answer.slice(at, at + FIELDS) as unknown as Fields
}

/** A key is gone a millisecond after the one it expires in. */
function remaining(expiryMs: unknown, serverMicros: unknown): number {
  return Number(expiryMs) + 1 - Number(serverMicros) / 1000
}

/** Milliseconds since this microsecond, as near as a double is to it. A batch opens its terms within one, by tokens that rise. */
function age(openedMicros: unknown, serverMicros: unknown): number {
  return Math.max(0, (Number(serverMicros) - Number(openedMicros)) / 1000)
}

/** @param asked who holds it where the answer leaves that out */
function holdingOf(
  lease: string,
  [code, token, expiryMs, stamp, holder, value]: Fields,
  serverMicros: unknown,
  asked?: string,
): Holding | undefined {
  if (Number(code) < 0 || (Number(code) & HELD) === 0) return undefined
  const pinned = (Number(code) & PINNED) !== 0
  let remainingMs = remaining(expiryMs, serverMicros)
  if (remainingMs <= 0 && !pinned) remainingMs = Number.MIN_VALUE
  const [nonce, openedMicros = token, , , weight = 1] = String(stamp).split(' ')
  return {
    holder: holder ?? asked ?? '',
    fencingToken: BigInt(String(token)),
    nonce,
    remainingMs,
    ageMs: age(openedMicros, serverMicros),
    value: value?.slice(1),
    pinned,
    version: undefined,
    weight: lease.includes('#') ? Number(weight) : undefined,
  }
}

/** The entities in order, each with its generation: the one that `unpin` has to name. undefined: nobody can read them. */
function pinsOf(entities: string, stamps: string | null): Pins | undefined {
  const list = parsed(entities)
  const stampOf = parsed(stamps ?? '{}') as Readonly<Record<string, unknown>> | undefined
  if (!Array.isArray(list) || stampOf === undefined) return undefined
  const generationOf = (entity: string): string => {
    const stamp = stampOf[entity]
    return typeof stamp === 'string' ? (stamp.split(' ')[0] ?? '-') : '-'
  }
  return new Map(list.map((entity) => [String(entity), generationOf(String(entity))] as const).toSorted(byName))
}

function byName([one]: readonly [string, string], [other]: readonly [string, string]): number {
  return one < other ? -1 : Number(one > other)
}

/** The object or array that is written there, if it is one. */
function parsed(text: string): object | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? value : undefined
  } catch {
    return undefined
  }
}

const ignore = (): void => {}
