/**
 * What keeps a request that comes too late from opening a term, setting a pin or changing a value.
 *
 * All else that the store is asked to change, it changes on a version that never comes again. But a lease that is vacant, or a
 * name without pins, leaves no version behind. So each transaction that creates such a key also looks at the *epoch key* of its
 * client. It holds the highest level at which the client has sent anything: the epoch that core counts (`Call.epoch`), and how
 * often this package has sent a request of that epoch again.
 *
 *     absent ──a request was lost──▶ put by the next transaction ──▶ what was sent at a lower level opens nothing from here on
 *
 * - Nothing is written before the first loss: until then a transaction demands that the key is absent. Afterwards it demands
 *   that the key holds no higher level than its own.
 * - The first transactions of a higher level put it themselves: no request more, and none before them.
 * - The key goes an hour after it was last put, and is put again by the next transaction that needs it. Until then only a request
 *   of before the first loss could still open something, more than an hour late.
 *
 * A driver that repeats calls by itself says nothing of a copy that is on its way. For it each such transaction also demands
 * that a key of its own is unchanged, and puts it: so only one copy is executed. As many of these keys as transactions at once
 * are used in turn.
 */
import type { EtcdAnswer, EtcdCompare, EtcdKeyValue, EtcdRequest } from './driver.ts'
import { foreign, type Layout } from './layout.ts'
import { foundBy, get, isAbsent, isAtMost, isUnchanged, ping, put } from './txn.ts'

/** For how long these keys stay after they were last put. */
export const REMEMBERED_MS = 3_600_000

/** What one transaction demands and does beside its steps. */
export interface EpochCheck {
  readonly compare: EtcdCompare[]
  readonly success: EtcdRequest[]
  /** Reads, where the transaction was not executed, what it found instead: last in the answer. */
  readonly failure: EtcdRequest[]
  readonly level: string
  /** Whether it puts the level, which must not depend on what becomes of the steps. */
  readonly raises: boolean
  /** Whether it demands that the epoch key is absent. */
  readonly first: boolean
  readonly once: OnceKey | undefined
  /** The etcd lease on which it puts keys. */
  readonly etcdLease: string | undefined
}

/** A key that is put by each transaction in which it is used. */
interface OnceKey {
  readonly key: Buffer
  version: string
}

/** How a request is sent. */
export interface EpochCheckOptions {
  readonly level: string
  /** Lasts for at least `REMEMBERED_MS`; undefined: neither does the level rise nor is a copy to be distinguished. */
  readonly etcdLease: string | undefined
  /** Whether the driver may send copies of it by itself, and only one of them may be executed. */
  readonly once: boolean
}

/** A request belongs to an epoch that is over: nothing of it was sent. */
export class EpochOver extends Error {
  constructor() {
    super('a later request of this client has reached etcd before')
  }
}

/** Of a client that has lost nothing yet. */
const LOWEST = levelOf({ epoch: 0, resends: 0 })
/** The `mod_revision` of a key that is absent. */
const ABSENT = '0'

/** The epochs of one client of core. */
export class Epochs {
  readonly #key: Buffer
  readonly #client: string
  readonly #layout: Layout
  /** What the key holds as last seen; undefined: it was absent. */
  #stored: string | undefined
  /** The revision of the store at which that was so. */
  #asOf = 0
  /** The highest level that the store has ever seen. */
  #highest = LOWEST
  readonly #idle: OnceKey[] = []
  #onceKeys = 0

  constructor(client: string, layout: Layout) {
    this.#client = client
    this.#layout = layout
    this.#key = layout.epochOf(client)
  }

  /** Whether the store has seen this epoch, or a later one. */
  hasSeen(epoch: number): boolean {
    return (
      epoch === 0 || epoch < epochOf(this.#highest) || (this.#stored !== undefined && epoch <= epochOf(this.#stored))
    )
  }

  /**
   * The level at which a request of this epoch is to be sent.
   *
   * @param before that of a copy which may be executed yet, and must not be after this one
   * @throws EpochOver
   */
  levelFor(epoch: number, before: string | undefined): string {
    const latest = epochOf(this.#highest)
    if (epoch < latest) throw new EpochOver()
    const level = epoch === latest ? this.#highest : levelOf({ epoch, resends: 0 })
    return before !== undefined && before >= level ? afterLevel(before) : level
  }

  /** Whether a request of this level has to put it. */
  raises(level: string): boolean {
    return level > (this.#stored ?? LOWEST)
  }

  check({ level, etcdLease, once }: EpochCheckOptions): EpochCheck {
    const first = this.#stored === undefined
    const raises = etcdLease !== undefined && this.raises(level)
    const compare = [first ? isAbsent(this.#key) : isAtMost(this.#key, level)]
    const success = raises ? [put(this.#key, Buffer.from(level), etcdLease)] : []
    const failure = [get(this.#key)]
    const basic = { compare, success, failure, level, raises, first, etcdLease }
    if (!once || etcdLease === undefined) return { ...basic, once: undefined }
    const own = this.#idle.pop() ?? { key: this.#layout.onceOf(this.#client, ++this.#onceKeys), version: ABSENT }
    compare.push(isUnchanged(own.key, own.version))
    success.push(ping(own.key, etcdLease))
    failure.push(get(own.key))
    return { ...basic, once: own }
  }

  /** Takes over that the transaction was executed, at this revision. */
  executed({ level, raises, once }: EpochCheck, revision: string): void {
    if (raises) this.#learn(level, revision)
    if (once === undefined) return
    once.version = revision
    this.#idle.push(once)
  }

  /**
   * Takes over what a transaction found, at this revision, that was not executed.
   *
   * @returns `copied`: a copy of it was; `refused`: by its level; `unmet`: its own conditions were not met
   * @throws when the key was not written by this library
   */
  found(
    { level, first, once }: EpochCheck,
    answers: readonly EtcdAnswer[],
    revision: string,
  ): 'copied' | 'refused' | 'unmet' {
    const kv = foundBy(answers)
    const stored = kv === undefined ? undefined : levelIn(kv)
    this.#learn(stored, revision)
    if (once !== undefined) {
      const { version } = once
      once.version = foundBy(answers, 1)?.mod_revision ?? ABSENT
      this.#idle.push(once)
      if (once.version !== version) return 'copied'
    }
    return first
      ? stored === undefined
        ? 'unmet'
        : 'refused'
      : stored !== undefined && stored <= level
        ? 'unmet'
        : 'refused'
  }

  /** Answers may come in another order than they were given. */
  #learn(stored: string | undefined, revision: string): void {
    if (stored !== undefined && stored > this.#highest) this.#highest = stored
    if (Number(revision) < this.#asOf) return
    this.#asOf = Number(revision)
    this.#stored = stored
  }
}

interface Level {
  readonly epoch: number
  readonly resends: number
}

/** Levels as text, which the store compares byte by byte. */
function levelOf({ epoch, resends }: Level): string {
  return `${String(epoch).padStart(16, '0')}.${String(resends).padStart(8, '0')}`
}

function epochOf(level: string): number {
  return Number(level.slice(0, 16))
}

function afterLevel(level: string): string {
  return levelOf({ epoch: epochOf(level), resends: Number(level.slice(17)) + 1 })
}

function levelIn({ key, value }: EtcdKeyValue): string {
  const level = value.toString()
  if (!/^\d{16}\.\d{8}$/.test(level)) throw foreign(key)
  return level
}
