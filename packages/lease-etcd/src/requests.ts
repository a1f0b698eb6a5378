/**
 * Requests that are sent until they are answered, or it is no use: the one place that knows which failures to sit out.
 *
 * All requests of this package may be executed twice, and late, so what was not answered is simply sent again. A member that is
 * silent gets a share of the time only, and then another one is asked (`members.ts`, `fail-fast.ts`); what opens a term, sets a pin or changes a value at a higher level (`epochs.ts`). A transaction
 * whose etcd lease is gone was not applied, and goes out again with a new one.
 */
import { sleep, type Clock } from 'lease-core'
import type { Call, Verdict } from 'lease-core/adapter'
import { SharedEtcdLeases } from './shared-etcd-leases.ts'
import type {
  EtcdAnswer,
  EtcdCallOptions,
  EtcdDriver,
  EtcdRange,
  EtcdRangeAnswer,
  EtcdRequest,
  EtcdTxn,
  EtcdTxnAnswer,
} from './driver.ts'
import { bundle, type Bundle } from './bundle.ts'
import { EpochOver, Epochs, REMEMBERED_MS, type EpochCheck } from './epochs.ts'
import { explained, failureOf, unsent } from './explain.ts'
import { membersOf, sendsOnce } from './fail-fast.ts'
import { checkLayout } from './layout-check.ts'
import type { Layout } from './layout.ts'
import { mayBeSwift, swiftly } from './renewal-codec.ts'
import { foundBy, NO_LEASE, sizeOf, together, widthOf } from './txn.ts'

/** The server takes requests of 1.5 MiB. */
const MAX_REQUEST_BYTES = 1_000_000
/** It takes 128 operations in a transaction, those of the longest branch inside included; and two may look at an epoch. */
const MAX_REQUEST_OPS = 126
/** How many of them a request of an operation takes inside, at most, but for claims of shares. */
const USUAL_WIDTH = 6
/** How often a request is sent in all whose server was not there, or whose etcd lease was not. */
const MAX_ATTEMPTS = 4
const PAUSE_MS = 20
/** How many keys are read in one transaction. */
const MAX_READS = 120
/** How long a call may take that is made only for the login. */
const LOGIN_MS = 5_000
const NEVER = new AbortController().signal
/** How long the last requests of a client may take. */
const CLOSING_MS = 1_000
/**
 * The first attempts wait for this share of the time that is left, though not for less than so long; the later ones wait for all of it.
 * An attempt that reaches its deadline ends its connection, so the next one has another, or another member: a new connection that
 * stays silent costs a share. Where there is one member a second share would only hurry a slow server. A driver that repeats calls by
 * itself would repeat such an attempt after its end, at members that are well.
 */
const SHARE = 0.25
const SHORTEST_SHARE_MS = 200
const SHARED_ATTEMPTS = { oneMember: 1, members: 2 } as const
/** A circuit breaker lets a request through every few seconds; waiting for it is worth this share of the call's time. */
const BREAKER_PAUSE_MS = 250
const BREAKER_SHARE = 0.8

/** One request of one operation. */
export interface Step {
  /** For how long, from the moment it is sent, the key it writes must not vanish; undefined: it needs no etcd lease. */
  readonly coverMs: number | undefined
  /** The same for what it writes of a counted lease. */
  readonly gateCoverMs?: number | undefined
  /** Others that touch this counted lease travel apart: no transaction puts a key twice. */
  readonly counted?: string | undefined
  /** It goes on with what an earlier one has begun, and is no further attempt. */
  readonly goesOn?: boolean
  /** The conditions of its request are most likely met, and where they are its answer says no more than that. */
  readonly likely?: boolean
  /** It creates the key of a lease, sets a pin, or changes a value: sent under the epoch of its call. */
  readonly opens?: boolean
  /**
   * What is better done before it is sent. Never rejects.
   *
   * @param leftMs how much time its call has left
   */
  readonly prepare?: ((leftMs: number) => Promise<void> | undefined) | undefined
  /**
   * @param lease the etcd lease that covers `coverMs`
   * @param gateLease the one that covers `gateCoverMs`
   */
  request(lease: string, gateLease: string): EtcdRequest
  /** What to send instead where this could not be sent, or has no answer; or what becomes of the operation all the same. */
  readonly instead?: ((error: unknown) => Verdict | Step | undefined) | undefined
  /** @param revision that of the whole transaction: what it has put has this `mod_revision` */
  next(answer: EtcdAnswer, revision: string): Verdict | Step
}

/** For how long a call may go on. */
export interface Deadline {
  readonly call: Call
  /** By the wall clock. */
  readonly atMs: number
  readonly breakerUntilMs: number
}

/** What became of one step; `late`: certainly not done, for the epoch of its call is over; `isRepeated`: a copy may have been executed before. */
export type Outcome =
  | { readonly answer: EtcdAnswer; readonly revision: string; readonly isRepeated: boolean }
  | { readonly error: unknown }
  | { readonly late: true }

/** A step, and where its outcome belongs. */
export interface IndexedStep {
  readonly index: number
  readonly step: Step
}

/** A step on its way. */
interface PreparedStep extends IndexedStep {
  readonly request: EtcdRequest
  /** The etcd lease that covers it. */
  readonly lease: string
  readonly gateLease: string
}

/** The etcd lease that a key may hang on, or why there is none. */
interface LeaseCover {
  readonly lease: string | undefined
  readonly error?: unknown
}

const uncovered: LeaseCover = { lease: NO_LEASE }

/** How steps are sent that may have been sent before. */
interface SendOptions {
  readonly deadline: Deadline
  readonly attempt: number
  readonly merging: boolean
  /** The level of a copy that may have been executed, or may be yet. */
  readonly before?: string | undefined
  /** There is a copy that may have been executed. */
  readonly isRepeated?: boolean
}

/** How a pack is sent. */
interface PackOptions extends SendOptions {
  readonly opens: boolean
  readonly limit: EtcdCallOptions
}

/** What was sent last. */
interface Sent {
  check?: EpochCheck
  bundle?: Bundle
}

export class Requests {
  readonly #etcd: EtcdDriver
  readonly #clock: Clock
  readonly #etcdLeases: SharedEtcdLeases
  readonly #maySwift: boolean
  readonly #sendsOnce: boolean
  /** So many attempts of a request have a share of its time. */
  readonly #sharedAttempts: number
  readonly #layout: Layout
  readonly #epochs = new Map<string, Epochs>()
  /** Whether the namespace is known to be in a layout that this release understands. */
  #isUnderstood = false
  #checking: Promise<void> | undefined

  constructor(etcd: EtcdDriver, layout: Layout, clock: Clock) {
    this.#etcd = etcd
    this.#layout = layout
    this.#maySwift = mayBeSwift(etcd)
    this.#sendsOnce = sendsOnce(etcd)
    const { oneMember, members } = SHARED_ATTEMPTS
    this.#sharedAttempts = !this.#sendsOnce ? 0 : membersOf(etcd) > 1 ? members : oneMember
    this.#clock = clock
    this.#etcdLeases = new SharedEtcdLeases(clock)
  }

  /** For a call that begins now. */
  deadline(call: Call): Deadline {
    const now = this.#clock.now()
    return { call, atMs: now + call.timeoutMs, breakerUntilMs: now + call.timeoutMs * BREAKER_SHARE }
  }

  /** Sends these steps in as few transactions as they fit into: an outcome for each, at its index. Never rejects. */
  async round(steps: readonly IndexedStep[], deadline: Deadline): Promise<readonly Outcome[]> {
    const outcomes: Outcome[] = []
    await this.#deliver(steps, outcomes, { deadline, attempt: 1, merging: true })
    return outcomes
  }

  /** @throws what the driver throws, explained */
  async txn(txn: EtcdTxn, deadline: Deadline): Promise<EtcdTxnAnswer> {
    if (!this.#isUnderstood) await this.#checkLayout(deadline)
    return await this.#send((limit) => this.#etcd.kv.txn(txn, limit), { deadline })
  }

  /** @throws what the driver throws, explained */
  async range(range: EtcdRange, deadline: Deadline): Promise<EtcdRangeAnswer> {
    if (!this.#isUnderstood) await this.#checkLayout(deadline)
    return await this.#send((limit) => this.#etcd.kv.range(range, limit), { deadline })
  }

  /** Asks for something that is of no interest: the driver logs in again where its token is refused. Never rejects. */
  async anyCall(): Promise<void> {
    const now = this.#clock.now()
    const deadline = { call: { signal: NEVER }, atMs: now + LOGIN_MS, breakerUntilMs: now }
    await this.#send((limit) => this.#etcd.kv.range({ key: this.#layout.version }, limit), { deadline }).catch(ignore)
  }

  /** Revokes the etcd leases on which nothing hangs any more, as far as the server answers soon. Never rejects. */
  async close(): Promise<void> {
    const { leaseClient } = this.#etcd
    const spare = this.#etcdLeases.close()
    if (spare.length === 0 || leaseClient.leaseRevoke === undefined) return
    const limit = { deadline: this.#clock.now() + CLOSING_MS }
    const revoking = spare.map(async ({ id, keys }) => {
      if (!(await this.#hangsOn(id, keys, limit))) await leaseClient.leaseRevoke?.({ ID: id }, limit)
    })
    const over = new AbortController()
    await Promise.race([Promise.allSettled(revoking), sleep(this.#clock, CLOSING_MS, over.signal)])
    over.abort()
  }

  /** Whether one of these keys hangs on this etcd lease now. */
  async #hangsOn(id: string, keys: readonly Buffer[], limit: EtcdCallOptions): Promise<boolean> {
    for (let from = 0; from < keys.length; from += MAX_READS) {
      const reads = keys.slice(from, from + MAX_READS).map((key) => ({ request_range: { key, keys_only: true } }))
      const { responses } = await this.#etcd.kv.txn(together(reads), limit)
      if (responses.some((_, index) => foundBy(responses, index)?.lease === id)) return true
    }
    return false
  }

  async #deliver(steps: readonly IndexedStep[], outcomes: Outcome[], options: SendOptions): Promise<void> {
    const { deadline } = options
    const covering = this.#covers(steps, deadline)
    if (!this.#isUnderstood) {
      try {
        await this.#checkLayout(deadline)
      } catch (error) {
        for (const { index } of steps) outcomes[index] = { error: unsent(error) }
        return
      }
    }
    const covers = await covering
    const prepared: PreparedStep[] = []
    for (const { index, step } of steps) {
      const { coverMs, gateCoverMs } = step
      const cover = coverMs === undefined ? uncovered : covers.get(coverMs)
      const gateCover = gateCoverMs === undefined ? uncovered : covers.get(gateCoverMs)
      const [lease, gateLease] = [cover?.lease, gateCover?.lease]
      if (lease === undefined || gateLease === undefined) outcomes[index] = { error: cover?.error ?? gateCover?.error }
      else prepared.push({ index, step, lease, gateLease, request: step.request(lease, gateLease) })
    }
    await Promise.all(packed(prepared).map((pack) => this.#deliverPack(pack, outcomes, options)))
  }

  async #deliverPack(pack: readonly PreparedStep[], outcomes: Outcome[], options: SendOptions): Promise<void> {
    const { deadline, attempt } = options
    const opens = pack.some(({ step }) => step.opens === true)
    const sent: Sent = {}
    let { before, isRepeated = false } = options
    const again = (steps: readonly PreparedStep[], more?: Partial<SendOptions>): Promise<void> =>
      this.#deliver(steps, outcomes, { ...options, before, isRepeated, ...(more ?? { attempt: attempt + 1 }) })
    try {
      // 1. Sent until it is answered; each copy of what opens something at a higher level than the one before.
      const answer = await this.#send((limit) => this.#sendPack(pack, sent, { ...options, opens, before, limit }), {
        deadline,
        beforeAgain: () => {
          isRepeated = true
          if (opens) before = sent.check?.level ?? before
        },
      })
      const { bundle: bundled, check } = sent as Sent & { readonly bundle: Bundle }
      const { revision } = answer.header

      // 2. Whether it was executed.
      if (check !== undefined) {
        const epochs = this.#epochsOf(deadline.call)
        const checkAnswers = bundled.checkIn(answer)
        if (checkAnswers === undefined) epochs.executed(check, revision)
        else {
          const found = epochs.found(check, checkAnswers, revision)
          if (found === 'copied') before = check.level
          if (found !== 'unmet') {
            if (attempt >= MAX_ATTEMPTS) throw new EpochOver()
            return await again(pack)
          }
        }
      }
      const answers = bundled.answersIn(answer)
      if (answers === undefined) return await again(pack, { merging: false })

      // 3. It was.
      for (let position = 0; position < pack.length; position++) {
        const answer = answers[position] as EtcdAnswer
        outcomes[(pack[position] as PreparedStep).index] = { answer, revision, isRepeated }
      }
    } catch (error) {
      if (error instanceof EpochOver) {
        const outcome: Outcome = before === undefined ? { late: true } : { error }
        for (const { index, step } of pack) if (step.opens === true) outcomes[index] = outcome
        return await again(pack.filter(({ step }) => step.opens !== true))
      }
      const isGone = failureOf(error) === 'lease-gone'
      if (isGone)
        this.#etcdLeases.forget(
          new Set([...pack.flatMap(({ lease, gateLease }) => [lease, gateLease]), sent.check?.etcdLease ?? NO_LEASE]),
        )
      if (isGone && attempt < MAX_ATTEMPTS) return await again(pack)
      for (const { index } of pack) outcomes[index] = { error }
    }
  }

  async #sendPack(
    pack: readonly PreparedStep[],
    sent: Sent,
    { merging, deadline, opens, before, limit }: PackOptions,
  ): Promise<EtcdTxnAnswer> {
    const { epoch } = deadline.call
    const epochs = opens || epoch > 0 ? this.#epochsOf(deadline.call) : undefined
    // What is likely to find the version that it names needs no epoch, and renewals wait for nothing.
    const needsNone = !opens && (epochs?.hasSeen(epoch) ?? true)
    if (epochs === undefined || needsNone || pack.every(({ step }) => step.likely === true)) {
      delete sent.check
      sent.bundle = bundle(pack, { merging })
    } else {
      const once = opens && !this.#sendsOnce
      let level = epochs.levelFor(epoch, before)
      let etcdLease: string | undefined
      if (once || epochs.raises(level)) {
        etcdLease = await this.#cover(REMEMBERED_MS, deadline)
        level = epochs.levelFor(epoch, before)
      }
      sent.check = epochs.check({ level, etcdLease, once })
      sent.bundle = bundle(pack, { merging, check: sent.check })
    }
    const { txn, onlyRenewals } = sent.bundle
    const more = onlyRenewals === true && this.#maySwift ? swiftly : {}
    const answered = this.#etcdLeases.send(pack, sent.check?.etcdLease)
    const answer = await this.#etcd.kv.txn(txn, { ...limit, ...more })
    answered()
    return answer
  }

  #epochsOf({ client }: Call): Epochs {
    let epochs = this.#epochs.get(client)
    if (epochs === undefined) this.#epochs.set(client, (epochs = new Epochs(client, this.#layout)))
    return epochs
  }

  /** Those who come first share it; after a failure the next call asks again. */
  #checkLayout(deadline: Deadline): Promise<void> {
    this.#checking ??= checkLayout(this.#layout, {
      txn: (txn) => this.#send((limit) => this.#etcd.kv.txn(txn, limit), { deadline }),
    })
      .then(() => void (this.#isUnderstood = true))
      .finally(() => (this.#checking = undefined))
    return this.#checking
  }

  /** An etcd lease for each time that is to be covered. Never rejects. */
  async #covers(steps: readonly IndexedStep[], deadline: Deadline): Promise<ReadonlyMap<number, LeaseCover>> {
    const covers = new Map<number, LeaseCover>()
    for (const { step } of steps) {
      if (step.coverMs !== undefined) covers.set(step.coverMs, uncovered)
      if (step.gateCoverMs !== undefined) covers.set(step.gateCoverMs, uncovered)
    }
    await Promise.all(
      [...covers.keys()].map(async (coverMs) => {
        covers.set(
          coverMs,
          await this.#cover(coverMs, deadline).then(
            (lease) => ({ lease }),
            (error: unknown) => ({ lease: undefined, error }),
          ),
        )
      }),
    )
    return covers
  }

  #cover(durationMs: number, deadline: Deadline): Promise<string> {
    return this.#etcdLeases.cover(durationMs, async (request) => {
      try {
        const { TTL } = await this.#send((limit) => this.#etcd.leaseClient.leaseGrant(request, limit), { deadline })
        return Number(TTL)
      } catch (error) {
        // Its number is its own: an earlier copy of it was executed, and the answer was lost.
        if (failureOf(error) === 'lease-there') return request.TTL
        throw error
      }
    })
  }

  /** @param beforeAgain is called before anything is sent again that may have been executed */
  async #send<T>(
    send: (limit: EtcdCallOptions) => Promise<T>,
    {
      deadline,
      beforeAgain,
    }: {
      readonly deadline: Pick<Deadline, 'atMs' | 'breakerUntilMs'> & { readonly call: Pick<Call, 'signal'> }
      readonly beforeAgain?: () => void
    },
  ): Promise<T> {
    const { call, atMs, breakerUntilMs } = deadline
    for (let attempt = 1; ; attempt++) {
      const nowMs = this.#clock.now()
      const shared = attempt <= this.#sharedAttempts
      const shareMs = shared ? Math.max(SHORTEST_SHARE_MS, (atMs - nowMs) * SHARE) : Number.POSITIVE_INFINITY
      try {
        return await send({ deadline: Math.min(atMs, Math.ceil(nowMs + shareMs)) })
      } catch (error) {
        const failure = failureOf(error)
        const pauseMs = failure === 'breaker' ? BREAKER_PAUSE_MS : PAUSE_MS * attempt
        const worthIt =
          failure === 'breaker'
            ? this.#clock.now() + pauseMs < breakerUntilMs
            : (failure === 'unavailable' || failure === 'silent' || failure === 'token-old') &&
              attempt < MAX_ATTEMPTS &&
              this.#clock.now() + pauseMs < atMs
        if (!worthIt) throw explained(error)
        if (failure === 'token-old') forgetToken(this.#etcd)
        else if (failure !== 'breaker') beforeAgain?.()
        await sleep(this.#clock, pauseMs * (0.5 + Math.random() / 2), call.signal)
      }
    }
  }
}

/**
 * Makes etcd3 log in before its next call. It does so by itself where the server does not know its token any more, but not
 * where users, roles or passwords have changed since a token that carries its own date (`--auth-token jwt`).
 */
function forgetToken(etcd: object): void {
  const { pool } = etcd as { readonly pool?: { readonly authenticator?: { invalidateMetadata?(): void } } }
  pool?.authenticator?.invalidateMetadata?.()
}

function ignore(): void {}

/** As many in each as the server accepts in one request. */
function packed(prepared: readonly PreparedStep[]): readonly PreparedStep[][] {
  const packs: PreparedStep[][] = []
  let size = Number.POSITIVE_INFINITY
  let ops = 0
  let width = USUAL_WIDTH
  let counted: Set<string> | undefined
  for (const prepare of prepared) {
    const { step, request } = prepare
    const ownWidth = step.counted === undefined ? USUAL_WIDTH : widthOf(request)
    size += sizeOf(request)
    ops += opsOf(prepare)
    width = Math.max(width, ownWidth)
    const isTwice = step.counted !== undefined && counted?.has(step.counted) === true
    if (size > MAX_REQUEST_BYTES || ops + width > MAX_REQUEST_OPS || isTwice) {
      packs.push([])
      size = sizeOf(request)
      ops = opsOf(prepare)
      width = Math.max(USUAL_WIDTH, ownWidth)
      counted = undefined
    }
    if (step.counted !== undefined) counted = (counted ?? new Set()).add(step.counted)
    packs.at(-1)?.push(prepare)
  }
  return packs
}

/** How many operations it takes in a transaction that is merged. */
function opsOf({ step, request }: PreparedStep): number {
  return step.likely === true ? Math.max(1, request.request_txn?.success?.length ?? 0) : 1
}
