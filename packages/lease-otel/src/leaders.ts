import { ValueType, type Meter, type ObservableResult } from '@opentelemetry/api'
import { traces, type Hold, type HoldTrace, type StoreName } from 'lease-core'
import { onTrace } from './channels.ts'
import { safely } from './safely.ts'

/**
 * Who leads: for each name 1 while this process holds its lease, otherwise 0, from the first time that this process asks for it. It is
 * observed when the metrics are read, by the clock of the holder: a leader whose trust window has ended is none.
 */
export class Leaders {
  readonly #meter: Meter
  readonly #names: readonly string[]
  /** By name, where it was asked for in this process. */
  readonly #places = new Map<string, Map<string, Place>>()

  constructor(meter: Meter, names: readonly string[]) {
    this.#meter = meter
    this.#names = names
  }

  /** Returns how to stop. */
  start(): () => void {
    const gauge = this.#meter.createObservableGauge('lease.leader', {
      description:
        'Whether this process holds the lease: 1 or 0. The sum over all processes is 1, or 0 without a leader.',
      unit: '1',
      valueType: ValueType.INT,
    })
    const observe = safely((result: ObservableResult) => this.#observe(result))
    gauge.addCallback(observe)
    const ends = [
      onTrace(traces.claim, { start: (trace) => trace.leases.forEach((lease) => void this.#placeOf(lease, trace)) }),
      onTrace(traces.hold, {
        start: (trace) => void this.#placeOf(trace.lease, trace)?.holds.add(trace),
        asyncStart: (trace) => void this.#placeOf(trace.lease, trace)?.holds.delete(trace),
      }),
    ]
    return () => {
      ends.forEach((end) => end())
      gauge.removeCallback(observe)
    }
  }

  /** undefined: the lease is none of the names. */
  #placeOf(lease: string, { system, namespace }: StoreName): Place | undefined {
    if (!this.#names.includes(lease)) return undefined
    const places = this.#places.get(lease) ?? new Map<string, Place>()
    this.#places.set(lease, places)
    const key = JSON.stringify([system, namespace])
    const place = places.get(key) ?? { system, namespace, holds: new Set() }
    places.set(key, place)
    return place
  }

  #observe(result: ObservableResult): void {
    for (const name of this.#names) {
      for (const { system, namespace, holds } of this.#places.get(name)?.values() ?? []) {
        const leads = [...holds].some(({ hold }) => (hold as Hold).held)
        result.observe(leads ? 1 : 0, {
          'lease.name': name,
          ...(system !== undefined && { 'db.system.name': system }),
          ...(namespace !== undefined && { 'lease.namespace': namespace }),
        })
      }
    }
  }
}

/** A namespace in which a name was asked for. */
interface Place {
  readonly system: string | undefined
  readonly namespace: string | undefined
  readonly holds: Set<HoldTrace>
}
