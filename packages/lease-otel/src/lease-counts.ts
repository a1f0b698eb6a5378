import { diag, metrics, ValueType, type BatchObservableResult, type MeterProvider } from '@opentelemetry/api'
import { systemClock, type Clock, type Info, type Manager } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import type { DurationLike } from './duration.ts'
import { METER_PROVIDER, type Instrumentation } from './instrument.ts'
import { VERSION } from './version.ts'

/** Options of `countLeases`. */
export interface CountOptions {
  /** @default the global one of `@opentelemetry/api` */
  readonly meterProvider?: MeterProvider | undefined
  /** A lease that ends within this time, unless it is renewed, counts as expiring. @default 10 seconds */
  readonly expiringWithin?: DurationLike | undefined
  /** For tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/**
 * Counts the leases of the whole namespace whenever the metrics are read: `lease.held`, `lease.pinned`, `lease.expiring`. Each time the whole
 * namespace is read from the store, so one process should do it, not each. If it cannot be read there is no value.
 *
 * @throws ErrNotValid with every problem
 */
export function countLeases(manager: Pick<Manager, 'leases' | 'store'>, options: CountOptions = {}): Instrumentation {
  const reader = new OptionReader(options, ['meterProvider', 'expiringWithin', 'clock'], { arguments: { manager } })
  reader.object('manager', 'a Manager', ['leases'])
  const { meterProvider = metrics } = reader.read
  if (meterProvider !== metrics) reader.object('meterProvider', METER_PROVIDER, ['getMeter'])
  const withinMs = reader.duration('expiringWithin', 10_000)
  const clock = reader.clock() ?? systemClock
  reader.finish()

  const meter = meterProvider.getMeter('lease-otel', VERSION)
  const gauge = (name: string, description: string) =>
    meter.createObservableGauge(name, { description, unit: '{lease}', valueType: ValueType.INT })
  const held = gauge('lease.held', 'Leases of the namespace that are held.')
  const pinned = gauge('lease.pinned', 'Those of them that are pinned: they do not lapse.')
  const expiring = gauge('lease.expiring', 'Those of them that end soon unless they are renewed.')
  const observe = async (result: BatchObservableResult): Promise<void> => {
    try {
      const leases = [...(await manager.leases()).values()]
      const isExpiring = (info: Info): boolean => !info.pinned && info.expiry.toMillis() - clock.now() <= withinMs
      const { system, namespace } = manager.store ?? {}
      const attributes = {
        ...(system !== undefined && { 'db.system.name': system }),
        ...(namespace !== undefined && { 'lease.namespace': namespace }),
      }
      result.observe(held, leases.length, attributes)
      result.observe(pinned, leases.filter((info) => info.pinned).length, attributes)
      result.observe(expiring, leases.filter(isExpiring).length, attributes)
    } catch (error) {
      diag.warn('lease-otel: the leases could not be counted', error)
    }
  }
  const gauges = [held, pinned, expiring]
  meter.addBatchObservableCallback(observe, gauges)
  return { stop: () => meter.removeBatchObservableCallback(observe, gauges) }
}
