/** A store of records in memory, leases on it, and short words for what is asked of them. */
import { notHeld } from '#src/adapter-parts.ts'
import type { Clock } from '#src/clock.ts'
import { ErrTrapdoor } from '#src/errors.ts'
import type { Trapdoor } from '#src/lease.ts'
import { isMemoryGuard } from '#src/memory/memory-guard.ts'
import { RecordSubstrate } from '#src/records/record-substrate.ts'
import type { FoundRecords, LeaseRecord, RecordStore, RecordWrite, Written } from '#src/records/record.ts'
import type {
  Call,
  ClaimOp,
  ExpireOp,
  ExtendOp,
  Holding,
  Op,
  PinOp,
  ReleaseOp,
  StoreFailure,
  Substrate,
  SubstrateLimits,
  SubstrateWarning,
  UnpinOp,
  Verdict,
} from '#src/substrate.ts'

type Request = keyof RecordStore

/** What befalls one request: it is sent, once, several times, late or not at all, and its answer is lost or not. */
export type Accident = <Answer>(send: () => Promise<Answer>) => Promise<Answer>

/** The records of one namespace. */
export class MapStore implements RecordStore {
  /** A failure stands for a record that somebody else wrote. */
  readonly records = new Map<string, LeaseRecord | StoreFailure>()
  /** All writes that were sent, each copy by itself. */
  readonly written: RecordWrite[] = []
  readonly #accidents: { readonly request: Request; readonly accident: Accident }[] = []

  read(leases: readonly string[]): Promise<FoundRecords> {
    return this.#send('read', () => this.#found((lease) => leases.includes(lease)))
  }

  readAll(prefix: string): Promise<FoundRecords> {
    return this.#send('readAll', () => this.#found((lease) => lease.startsWith(prefix)))
  }

  write(writes: readonly RecordWrite[]): Promise<readonly Written[]> {
    return this.#send('write', () => this.#write(writes))
  }

  /** These befall the next requests of this kind, one each. */
  plan(request: Request, ...accidents: readonly Accident[]): void {
    this.#accidents.push(...accidents.map((accident) => ({ request, accident })))
  }

  /** Whether all that was planned has happened. */
  get isThrough(): boolean {
    return this.#accidents.length === 0
  }

  /** @throws the failure that stands for a record which somebody else wrote */
  recordOf(lease: string): LeaseRecord | undefined {
    const record = this.records.get(lease)
    if (record instanceof Error) throw record
    return record
  }

  async #send<Answer>(request: Request, answer: () => Answer): Promise<Answer> {
    const send = async (): Promise<Answer> => answer()
    const index = this.#accidents.findIndex((one) => one.request === request)
    const [planned] = index === -1 ? [] : this.#accidents.splice(index, 1)
    return planned === undefined ? send() : planned.accident(send)
  }

  #found(isMeant: (lease: string) => boolean): FoundRecords {
    return new Map([...this.records].filter(([lease]) => isMeant(lease)))
  }

  #write(writes: readonly RecordWrite[]): readonly Written[] {
    this.written.push(...writes)
    const isMet = ({ lease, was }: RecordWrite): boolean => this.recordOf(lease)?.version === was
    if (!writes.every(isMet)) {
      return writes.map((write) =>
        isMet(write) ? { isMet: true } : { isMet: false, found: this.recordOf(write.lease) },
      )
    }
    for (const { lease, after } of writes) {
      if (after === 'deleted') this.records.delete(lease)
      else this.records.set(lease, after)
    }
    return writes.map(() => ({ isMet: true }))
  }
}

interface MapSubstrateOptions {
  readonly maxSkewMs?: number
  readonly onWarning?: (warning: SubstrateWarning) => void
}

export class MapSubstrate extends RecordSubstrate {
  readonly limits: SubstrateLimits = { maxOps: 1_000, maxInFlight: 4 }
  readonly page = 'docs/adapters.md'
  readonly #store: MapStore

  constructor(store: MapStore, clock: Clock, { maxSkewMs, onWarning }: MapSubstrateOptions = {}) {
    const unreadable = (lease: string, message: string): SubstrateWarning => ({ warning: lease, message })
    super({ store, clock, maxSkewMs, onWarning, unreadable })
    this.#store = store
  }

  async inspect(): Promise<readonly SubstrateWarning[]> {
    return []
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return async (key) => {
      if (key === undefined) return
      const record = this.#store.recordOf(lease)
      const isHeld = record?.term?.holder === holder && record.fencingToken === fencingToken
      if (!isMemoryGuard(key)) throw new ErrTrapdoor('a MemoryGuard is understood, and nothing else', { lease, holder })
      if (!isHeld) throw notHeld({ lease, holder, fencingToken })
      key.run()
    }
  }
}

/** The client in whose name the words below are said, and another one. */
export const CLIENT = 'client-words'
export const OTHER = 'client-other'

export function newCall(more: Partial<Call> = {}): Call {
  const { signal } = new AbortController()
  return { signal, timeoutMs: 5_000, client: CLIENT, epoch: 0, sentMs: undefined, notAfterMs: undefined, ...more }
}

let count = 0

/** A claim with a nonce of its own, for ten seconds. */
export function claim(lease: string, holder: string, more: Partial<ClaimOp> = {}): ClaimOp {
  const nonce = `${CLIENT}-nonce-${++count}`
  return { kind: 'claim', lease, holder, durationMs: 10_000, nonce, value: undefined, lapsed: undefined, ...more }
}

export function extend(lease: string, holder: string, more: Partial<ExtendOp> = {}): ExtendOp {
  const { fencingToken = more.seen?.fencingToken ?? 0n } = more
  return { kind: 'extend', lease, holder, durationMs: 10_000, value: undefined, seen: undefined, ...more, fencingToken }
}

export function release(lease: string, holder: string, more: Partial<ReleaseOp> = {}): ReleaseOp {
  return { kind: 'release', lease, holder, fencingToken: undefined, nonce: undefined, ...more }
}

export function expire(lease: string, lapsed?: string): ExpireOp {
  return { kind: 'expire', lease, lapsed }
}

export function pin(lease: string, entity: string, generation: string): PinOp {
  return { kind: 'pin', lease, entity, generation }
}

export function unpin(lease: string, entity: string, generation: string, lapsed?: string): UnpinOp {
  return { kind: 'unpin', lease, entity, generation, lapsed }
}

/** The verdict of one operation. */
export async function ask(substrate: Substrate, op: Op, call: Call = newCall()): Promise<Verdict> {
  const [verdict] = await substrate.apply([op], call)
  if (verdict === undefined) throw new Error('no verdict')
  return verdict
}

/** The holding that this granted operation left. */
export async function grant(substrate: Substrate, op: Op): Promise<Holding> {
  const { outcome, holding } = await ask(substrate, op)
  if (outcome !== 'granted' || holding === undefined) throw new Error(`${op.kind} ${op.lease} was ${outcome}`)
  return holding
}
