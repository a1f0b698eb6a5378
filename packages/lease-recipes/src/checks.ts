/** Checks the options of a recipe: all problems are reported together, nothing is coerced or ignored. */
import {
  brokenOptionsRule,
  brokenRenewalRule,
  brokenSignalRule,
  checkRequest,
  ErrNotValid,
  MAX_NAME_BYTES,
  notValid,
  throwIfAborted,
  trustWindowMs,
  type Problem,
} from 'lease-core'
import { Duration, type DurationLike } from 'luxon'
import { brokenSegmentRule, encodeSegment } from './segments.ts'

/**
 * Collects the broken rules of the options of a recipe:
 *
 *     const checks = new Checks(options, ['lease', 'ttl'])
 *     checks.name('lease', options.lease)
 *     const ttlMs = checks.duration('ttl', options.ttl)
 *     checks.finish()
 */
export class Checks {
  readonly #problems: Problem[] = []

  /** @throws ErrNotValid the options are not an object */
  constructor(options: unknown, known: readonly string[]) {
    let entries: [string, unknown][]
    try {
      const rule = brokenOptionsRule(options, known)
      if (rule !== undefined) throw notValid([{ argument: 'options', rule, value: options }])
      entries = Object.entries(options as object)
    } catch (error) {
      if (error instanceof ErrNotValid) throw error
      throw notValid([{ argument: 'options', rule: 'must be readable: to read it throws', value: options }])
    }
    for (const [name, value] of entries) this.must(name, known.includes(name), 'is not an option', value)
  }

  /** Notes a problem unless the option is `sound`. */
  must(option: string, sound: boolean, rule: string, value: unknown): void {
    if (!sound) this.#problems.push({ argument: option, rule, value })
  }

  /** Checks a name of a lease or a holder, by core's rules. */
  name(option: string, value: unknown): void {
    this.#core(option, value, 'holder', { holder: value as string, duration: 1 })
  }

  /** Checks what the names of a family of leases begin with. Returns it as `id` takes it, escaped. */
  prefix(option: string, value: unknown): string {
    const isBroken = this.#core(option, value, 'holder', { holder: value as string, duration: 1 })
    return isBroken ? '' : encodeSegment(value as string)
  }

  /**
   * Checks an id. Returns the lease name that is made of it, escaped.
   *
   * @param prefix the beginning of the name, as `prefix` returns it; none: the id is the whole name
   * @param suffix the end of the longest name that is made of this one
   */
  id(option: string, value: unknown, prefix?: string, suffix: string = ''): string {
    const rule = brokenSegmentRule(value)
    this.must(option, rule === undefined, rule ?? '', value)
    const segment = rule === undefined ? encodeSegment(value as string) : ''
    const name = prefix === undefined || segment === '' ? segment : `${prefix}/${segment}`
    this.fits(option, name + suffix, value)
    return name
  }

  /**
   * Checks the length of a name that is made of an option.
   *
   * @param name the whole name. The rule does not show it, because it may be a URL with a password
   */
  fits(option: string, name: string, value: unknown): void {
    const bytes = Buffer.byteLength(name)
    const rule = `must be shorter: the name made of it would have ${bytes} bytes, and at most ${MAX_NAME_BYTES} are allowed`
    this.must(option, bytes <= MAX_NAME_BYTES, rule, value)
  }

  /** Checks a value of a lease, by core's rules. */
  value(option: string, value: unknown): void {
    if (value !== undefined) this.#core(option, value, 'value', { holder: 'a', duration: 1, value: value as string })
  }

  /** Checks a signal; undefined is valid. */
  signal(option: string, value: unknown): void {
    const rule = value === undefined ? undefined : brokenSignalRule(value)
    this.must(option, rule === undefined, rule ?? '', value)
  }

  /** Checks a renewal interval, by core's rule. NaN is reported already. */
  renewal(option: string, everyMs: number, durationOption: string, durationMs: number): void {
    if (Number.isNaN(everyMs) || Number.isNaN(durationMs)) return
    const rule = brokenRenewalRule(everyMs, durationOption, durationMs)
    this.must(option, rule === undefined, rule ?? '', everyMs)
  }

  /** Checks a duration. Returns whole milliseconds; NaN when it breaks core's rules, so that every comparison with it is false. */
  duration(option: string, value: unknown): number {
    const duration = value as DurationLike
    if (this.#core(option, value, 'duration', { holder: 'a', duration })) return Number.NaN
    return Math.ceil(typeof duration === 'number' ? duration : Duration.fromDurationLike(duration).toMillis())
  }

  /** Checks a `wait`. Returns milliseconds: 0 for a single try, Infinity for no bound, NaN when it breaks a rule. */
  wait(option: string, value: unknown): number {
    if (typeof value === 'boolean') return value ? Number.POSITIVE_INFINITY : 0
    return this.duration(option, value)
  }

  /** Checks the duration of a lease, which must be long enough to have a trust window. Returns as `duration` does. */
  leaseDuration(option: string, value: unknown): number {
    const durationMs = this.duration(option, value)
    if (!(trustWindowMs(durationMs) <= 0)) return durationMs
    this.must(option, false, 'must be longer than the margin for clocks, 1 ms and 0.1 %', value)
    return Number.NaN
  }

  /** As `leaseDuration`, of a lease that renews itself: long enough for a renewal to come in time. */
  renewedDuration(option: string, value: unknown): number {
    const durationMs = this.leaseDuration(option, value)
    if (!(durationMs < LEAST_RENEWED_MS)) return durationMs
    this.must(option, false, `must be at least ${LEAST_RENEWED_MS} ms, to be renewed in time`, value)
    return Number.NaN
  }

  /** @throws ErrNotValid with every problem, if there is one */
  finish(): void {
    if (this.#problems.length > 0) throw notValid(this.#problems)
  }

  /** Lets core check one argument of a request. Returns whether it broke a rule. */
  #core(option: string, value: unknown, argument: string, request: Parameters<typeof checkRequest>[1]): boolean {
    try {
      checkRequest('a', request)
    } catch (error) {
      if (!(error instanceof ErrNotValid)) throw error
      const broken = error.problems.filter((problem) => problem.argument === argument)
      this.#problems.push(...broken.map(({ rule }) => ({ argument: option, rule, value })))
      return broken.length > 0
    }
    return false
  }
}

/** As of a Hold that renews itself. */
const LEAST_RENEWED_MS = 8

/**
 * Checks the options of a call that accepts only a signal. Returns the signal.
 *
 * @throws ErrNotValid, or the signal's reason when it has aborted already
 */
export function checkedSignal(options: { readonly signal?: AbortSignal | undefined }): AbortSignal | undefined {
  const checks = new Checks(options, ['signal'])
  checks.signal('signal', options.signal)
  checks.finish()
  throwIfAborted(options.signal)
  return options.signal
}
