/** A `Substrate` in the memory of this process: for tests of applications, and for programs with one process. */
import type { LeaseChange } from '../client.ts'
import type { Clock } from '../clock.ts'
import { ErrNotHeld, ErrTrapdoor } from '../errors.ts'
import type { LeaseEvents } from '../events.ts'
import { brokenNameRule, type Trapdoor } from '../lease.ts'
import { OptionReader } from '../option-reader.ts'
import { REQUEST_TIMEOUT_MS } from '../options.ts'
import { SubstrateClient, type SubstrateClientOptions } from '../substrate-client.ts'
import type { Call, Counted, Holding, Op, Pins, Substrate, Verdict } from '../substrate.ts'
import { isMemoryGuard } from './memory-guard.ts'
import { isMemoryStore, MemoryStore, type MemoryNamespace } from './memory-store.ts'

/** Options of a MemorySubstrate. */
export interface MemorySubstrateOptions {
  /** Where the leases are kept. Share it between clients that compete. @default a store of its own */
  readonly store?: MemoryStore | undefined
  /** Leases of different namespaces are independent. @default "default" */
  readonly namespace?: string | undefined
}

/** Keeps leases in a `MemoryStore`. Its trapdoor key is a `MemoryGuard`. Its hints are complete and in order. */
export class MemorySubstrate implements Substrate {
  readonly limits: Substrate['limits'] = { maxOps: 1000, maxInFlight: 4 }
  /** Absent where the store has no clock. */
  declare readonly time?: (call: Call) => Promise<number>
  readonly store: NonNullable<Substrate['store']>
  readonly #leases: MemoryNamespace
  readonly #unwatch = new Set<() => void>()
  #closed = false

  /** @throws ErrNotValid */
  constructor(options: MemorySubstrateOptions = {}) {
    const reader = new OptionReader(options, PLACE)
    checkPlace(reader)
    reader.finish()
    const { store = new MemoryStore(), namespace = 'default' } = reader.read
    const leases = store.namespace(namespace)
    this.#leases = leases
    this.store = { system: 'memory', namespace }
    if (leases.hasClock) {
      this.time = async (call) => {
        this.#open(call)
        return leases.time()
      }
    }
  }

  async apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    this.#open(call)
    return ops.map((op) => this.#leases.apply(op, call))
  }

  async read(
    leases: readonly string[] | undefined,
    call: Call,
    watched: readonly string[] = [],
  ): Promise<ReadonlyMap<string, Holding>> {
    this.#open(call)
    return this.#leases.read(leases, { client: call.client, leases: watched })
  }

  async counted(lease: string, call: Call): Promise<Counted> {
    this.#open(call)
    return this.#leases.counted(lease)
  }

  async waiting(lease: string, call: Call): Promise<number> {
    this.#open(call)
    return this.#leases.waiting(lease).length
  }

  async pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    this.#open(call)
    return this.#leases.pinned(leases)
  }

  watch(listener: (change: LeaseChange) => void, client?: string): () => void {
    const stop = this.#leases.watch(listener, client)
    this.#unwatch.add(stop)
    return () => {
      this.#unwatch.delete(stop)
      stop()
    }
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return async (key) => {
      if (key === undefined) return
      if (!isMemoryGuard(key)) {
        throw new ErrTrapdoor('the memory substrate understands a MemoryGuard only', { lease, holder })
      }
      if (!this.#leases.stands(lease, holder, fencingToken)) {
        throw new ErrNotHeld(`"${holder}" does not hold lease "${lease}" with fencing token ${fencingToken}`, {
          lease,
          holder,
        })
      }
      key.run()
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const stop of this.#unwatch) stop()
    this.#unwatch.clear()
  }

  #open(call: Call): void {
    if (this.#closed) throw new Error('the memory substrate was closed')
    throwIfAborted(call)
    if (this.#leases.hasClock) call.answered?.(this.#leases.time())
  }
}

/** Options of `memoryClient`. */
export interface MemoryClientOptions extends MemorySubstrateOptions {
  /** The clock of the client, and of a store that is made for it. @default the machine's clocks */
  readonly clock?: Clock | undefined
  /** Where warnings are emitted. @default a stream of its own */
  readonly events?: LeaseEvents | undefined
  /** How long one round trip may take; then its answer counts as lost. @default 5 seconds */
  readonly requestTimeout?: SubstrateClientOptions['requestTimeout']
}

/**
 * Makes a `Client` whose leases are in the memory of this process.
 *
 * @throws ErrNotValid with every problem
 */
export function memoryClient(options: MemoryClientOptions = {}): SubstrateClient {
  const reader = new OptionReader(options, [...PLACE, 'clock', 'events', 'requestTimeout'])
  checkPlace(reader)
  reader.clock()
  reader.events()
  reader.duration('requestTimeout', REQUEST_TIMEOUT_MS)
  reader.finish()
  const { store = new MemoryStore({ clock: reader.read.clock }), namespace, ...rest } = reader.read
  return new SubstrateClient({ ...rest, substrate: new MemorySubstrate({ store, namespace }) })
}

/** Without the signal where that would have to be made. */
function throwIfAborted(call: Call): void {
  if (call.onAbort === undefined) return call.signal.throwIfAborted()
  let aborted: Error | undefined
  call.onAbort((why) => (aborted = why))
  if (aborted !== undefined) throw aborted
}

/** Checks where the leases are. */
function checkPlace(reader: OptionReader<MemorySubstrateOptions>): void {
  reader.ruled('store', (store) => (isMemoryStore(store) ? undefined : 'must be a MemoryStore'))
  reader.ruled('namespace', brokenNameRule)
}

const PLACE = ['store', 'namespace'] as const
