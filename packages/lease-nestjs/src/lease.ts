/** `@Lease`: the method runs while it holds a lease. */
import { ErrClaimDenied, notValid } from 'lease-core'
import { HOLD_OPTIONS, OptionReader, readHold } from 'lease-core/adapter'
import type { WithLeaseOptions } from 'lease-recipes'
import { decorate, type Method } from './decorated.ts'
import { injectWorks, worksOf } from './tokens.ts'

/** The options of `withLease`, and which lease. */
export interface LeaseDecoratorOptions<Args extends readonly unknown[]> extends Omit<
  WithLeaseOptions,
  'signal' | 'duration'
> {
  /** The name of the lease, or a function that makes it of the arguments: `(order: Order) => 'order/' + order.id`. */
  readonly name: string | ((...args: Args) => string)
  /** How long the lease lasts after the last renewal, if the process dies. A number is in milliseconds. @default 30 seconds */
  readonly duration?: WithLeaseOptions['duration'] | undefined
  /**
   * What happens where another has the lease, and still had when `wait` ran out: `throw` rejects with `ErrClaimDenied`; `skip` resolves
   * with undefined, and the method does not run. @default 'throw'
   */
  readonly onBusy?: 'throw' | 'skip' | undefined
}

const DURATION = { seconds: 30 }

/**
 * Runs the method while this call holds a lease: claims it (`wait` for others), renews it, and releases it when the promise of the method
 * settles. Each call is a holder of its own, in every process; a call within a call for the same name joins the outer one. What the
 * method may rely on is `currentLease()`.
 *
 * The decorated method rejects with `ErrClaimDenied` (another has it), `ErrUnknown` (the store did not answer), `ErrStopped` (the
 * application ends), `ErrNotValid` (the name that was made breaks a rule), or as the method itself.
 *
 * @throws ErrNotValid when the class is defined: there is no name, or an option breaks a rule
 */
export function Lease<Args extends readonly unknown[] = []>(options: LeaseDecoratorOptions<Args>) {
  const { name, onBusy = 'throw', duration = DURATION, ...ofLease } = options ?? {}
  const isNamed = typeof name === 'function' || (typeof name === 'string' && name !== '')
  if (!isNamed) {
    const rule =
      "must be the name of the lease, or a function that makes it of the arguments: @Lease({ name: 'report' })"
    throw notValid([{ argument: 'name', rule, value: name }])
  }
  if (onBusy !== 'throw' && onBusy !== 'skip') {
    throw notValid([{ argument: 'onBusy', rule: "must be 'throw' or 'skip'", value: onBusy }])
  }
  const ofWork = { duration, ...ofLease }
  checkOptions(typeof name === 'string' ? { name } : {}, ofWork)
  return <Rest extends readonly unknown[], T>(
    target: object,
    key: string | symbol,
    descriptor: TypedPropertyDescriptor<Method<[...Args, ...Rest], T>>,
  ): void => {
    decorate(target, key, descriptor, async (instance, args, method) => {
      const lease = typeof name === 'string' ? name : Reflect.apply(name, instance, args)
      let isWork = false
      const work = (): Promise<unknown> => {
        isWork = true
        return method()
      }
      try {
        return await worksOf(instance).underLease(lease, ofWork, work)
      } catch (error) {
        // What the method itself throws is no answer to this claim.
        if (onBusy === 'skip' && !isWork && error instanceof ErrClaimDenied) return undefined
        throw error
      }
    })
    injectWorks(target)
  }
}

/** What each call would refuse: better before the application starts. */
function checkOptions(named: { readonly name?: string }, options: Omit<WithLeaseOptions, 'signal'>): void {
  const reader = new OptionReader(options, KNOWN, { arguments: named })
  if (named.name !== undefined) reader.name('name')
  if (options.holder !== undefined) reader.name('holder')
  reader.function('releaseFailed')
  readHold(reader)
  reader.finish()
}

/** A signal is the application's: the decorator is there before any. Shares have recipes of their own. */
const KNOWN: readonly string[] = [
  ...HOLD_OPTIONS.filter((option) => option !== 'signal' && option !== 'share' && option !== 'acceptLate'),
  'holder',
  'releaseFailed',
]
