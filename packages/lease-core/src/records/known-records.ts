/**
 * Reads and writes records, and remembers what this process knows of them: as they were last seen, and which writes may still arrive.
 *
 * A write that was given up may arrive at any time, as long as the record has the version that it demands. So before a later operation on the
 * same lease is answered, the record gets another version.
 */
import { randomUUID } from 'node:crypto'
import type { Clock } from '../clock.ts'
import { LatestMap } from '../latest-map.ts'
import { countedOf } from '../share.ts'
import { failsFor, type Call } from '../substrate.ts'
import { isOver, written, type DecisionContext } from './decide.ts'
import { ABSENT, type LeaseRecord, type RecordStore, type RecordWrite, type Written } from './record.ts'

/** How many records are remembered. What is forgotten costs one more read. */
const MOST_KNOWN = 20_000

/** What became of writes: all of them are done, or none. */
export interface Outcome {
  readonly isDone: boolean
  /** What each of them has left, or met; undefined: not known, so read it. */
  readonly records: readonly (LeaseRecord | undefined)[]
}

export class KnownRecords {
  readonly #store: RecordStore
  readonly #clock: Clock
  readonly #maxSkewMs: number | undefined
  readonly #prefix = randomUUID().replaceAll('-', '').slice(0, 20)
  #versions = 0
  readonly #known = new LatestMap<LeaseRecord>(MOST_KNOWN)
  /** The writes that are under way, or whose outcome is not known, by the lease. */
  readonly #doubts = new Map<string, Set<RecordWrite>>()
  readonly #epochs = new Map<string, number>()

  /** @param maxSkewMs see `RecordSubstrateOptions` */
  constructor(store: RecordStore, clock: Clock, maxSkewMs: number | undefined) {
    this.#store = store
    this.#clock = clock
    this.#maxSkewMs = maxSkewMs
  }

  /** As it was last seen; undefined: never. It may have changed since. */
  get(lease: string): LeaseRecord | undefined {
    return this.#known.get(lease)
  }

  /** By the lease. */
  all(): Iterable<readonly [string, LeaseRecord]> {
    return this.#known
  }

  learn(lease: string, record: LeaseRecord): void {
    this.#known.set(lease, record)
  }

  /** Takes over that a request of this client was sent in this epoch. */
  sent({ client, epoch }: Call): void {
    if (epoch > (this.#epochs.get(client) ?? 0)) this.#epochs.set(client, epoch)
  }

  /** For one decision: its version is new. */
  context({ client, epoch }: Call): DecisionContext {
    return {
      version: `${this.#prefix}${(this.#versions++).toString(36)}`,
      client,
      isStale: epoch < (this.#epochs.get(client) ?? 0),
      nowMs: this.#clock.now(),
      maxSkewMs: this.#maxSkewMs,
    }
  }

  /** Whether the term is over as far as clocks can tell, where they are asked. */
  isOver(record: LeaseRecord): boolean {
    return isOver(record, { nowMs: this.#clock.now(), maxSkewMs: this.#maxSkewMs })
  }

  /** The record now. @throws StoreFailure also for one that somebody else wrote */
  async fetch(lease: string, call: Call): Promise<LeaseRecord> {
    const before = this.#doubtsOf(lease)
    const record = (await this.#store.read([lease], call)).get(lease) ?? ABSENT
    if (record instanceof Error) throw record
    // What was under way before that read, and demands another version, has failed by now.
    this.#end(before.filter(({ was }) => was !== record.version))
    this.learn(lease, record)
    return record
  }

  /** All of them, or none. @throws StoreFailure they may have been done, or may be done yet, unless it says `isNotDone` */
  async write(writes: readonly RecordWrite[], call: Call): Promise<Outcome> {
    const before = writes.map(({ lease }) => this.#doubtsOf(lease))
    for (const write of writes) this.#doubts.set(write.lease, new Set(this.#doubts.get(write.lease)).add(write))
    let answers: readonly Written[]
    try {
      answers = await this.#store.write(writes, call)
    } catch (error) {
      if (failsFor(error, 'isNotDone')) this.#end(writes)
      throw error
    }
    this.#end(writes)
    const areMet = answers.every(({ isMet }) => isMet)
    const outcomes = writes.map((write, index) => {
      const { lease } = write
      const answer = answers[index] as Written
      const outcome = outcomeOf(write, answer)
      // The version that earlier writes demand is gone, whichever of them this one has met.
      if (areMet || (!answer.isMet && outcome.isDone)) this.#end(before[index] ?? [])
      if (outcome.record !== undefined && (areMet || !answer.isMet)) this.learn(lease, outcome.record)
      return outcome
    })
    return { isDone: outcomes.every(({ isDone }) => isDone), records: outcomes.map(({ record }) => record) }
  }

  /** Sees to it that no write that was given up can still arrive. Returns false if the record has changed in the meantime. */
  async settle(lease: string, record: LeaseRecord, call: Call): Promise<boolean> {
    const { version: was } = record
    if (!this.#doubtsOf(lease).some((doubt) => doubt.was === was)) return true
    const after = written({ ...record, keeps: countedOf(lease) !== undefined }, this.context(call))
    return (await this.write([{ lease, was, after }], call)).isDone
  }

  #doubtsOf(lease: string): readonly RecordWrite[] {
    return [...(this.#doubts.get(lease) ?? [])]
  }

  /** The outcome of these is known. */
  #end(ended: readonly RecordWrite[]): void {
    for (const write of ended) {
      const doubts = this.#doubts.get(write.lease)
      if (doubts?.delete(write) === true && doubts.size === 0) this.#doubts.delete(write.lease)
    }
  }
}

/** A copy of this write may have been first, which the driver has sent before: it met its own version then. */
function outcomeOf(
  { after }: RecordWrite,
  answer: Written,
): { readonly isDone: boolean; readonly record: LeaseRecord | undefined } {
  if (answer.isMet) return { isDone: true, record: after === 'deleted' ? ABSENT : after }
  const { found } = answer
  return { isDone: after !== 'deleted' && found?.version === after.version, record: found }
}
