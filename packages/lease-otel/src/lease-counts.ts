import { diag, metrics, ValueType, type BatchObservableResult, type MeterProvider } from '@opentelemetry/api'
import { hasMethods, notValid, readOptions, systemClock, type Clock, type Info, type Manager } from 'lease-core'
import { durationMs, type DurationLike } from './duration.ts'
import type { Instrumentation } from './instrument.ts'
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
  const { read, problems } = readOptions(options, ['meterProvider', 'expiringWithin', 'clock'])
  const { meterProvider = metrics, expiringWithin = 10_000, clock = systemClock } = read
  const broken = [...problems]
  const withinMs = durationMs('options.expiringWithin', expiringWithin, broken)
  if (!hasMethods(manager, 'leases')) {
    broken.push({ argument: 'manager', rule: 'must be a Manager', value: manager })
  }
  if (!hasMethods(meterProvider, 'getMeter')) {
    broken.push({ argument: 'options.meterProvider', rule: 'must be a MeterProvider', value: meterProvider })
  }
  if (broken.length > 0) throw notValid(broken)

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
