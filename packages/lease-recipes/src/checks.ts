/** The checks that every recipe makes of its options: once, all problems together, no coercion, nothing ignored. */
import {
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
 * Collects what is wrong with the options of a recipe:
 *
 *     const checks = new Checks(options, ['lease', 'ttl'])
 *     checks.name('lease', options.lease)
 *     const ttlMs = checks.duration('ttl', options.ttl)
 *     checks.finish()
 */
export class Checks {
  readonly #problems: Problem[] = []

  /** @throws ErrNotValid these are no options at all */
  constructor(options: unknown, known: readonly string[]) {
    if (typeof options !== 'object' || options === null) {
      throw notValid([{ argument: 'options', rule: 'must be an object', value: options }])
    }
    let entries: [string, unknown][]
    try {
      entries = Object.entries(options)
    } catch {
      throw notValid([{ argument: 'options', rule: 'must be readable: to read it throws', value: options }])
    }
    for (const [name, value] of entries) this.must(name, known.includes(name), 'is not an option', value)
  }

  /** Notes a problem unless the option is `sound`. */
  must(option: string, sound: boolean, rule: string, value: unknown): void {
    if (!sound) this.#problems.push({ argument: option, rule, value })
  }

  /** A name of a lease or a holder, by core's own rules. */
  name(option: string, value: unknown): void {
    this.#core(option, value, 'holder', { holder: value as string, duration: 1 })
  }

  /**
   * An id, which is the name of a lease when it is escaped; returns that name.
   *
   * @param prefix what the name begins with, as it is; none: the id is the whole name
   */
  id(option: string, value: unknown, prefix?: string): string {
    const rule = brokenSegmentRule(value)
    this.must(option, rule === undefined, rule ?? '', value)
    const segment = rule === undefined ? encodeSegment(value as string) : ''
    const name = prefix === undefined || segment === '' ? segment : `${prefix}/${segment}`
    this.fits(option, name, value)
    return name
  }

  /**
   * An option of which the name of a lease or a holder is made.
   *
   * @param name as it would be. The rule does not repeat it: it may be a URL with a password in it
   */
  fits(option: string, name: string, value: unknown): void {
    const bytes = Buffer.byteLength(name)
    const rule = `must be shorter: the name made of it would have ${bytes} bytes, and at most ${MAX_NAME_BYTES} are allowed`
    this.must(option, bytes <= MAX_NAME_BYTES, rule, value)
  }

  /** What may travel with a lease, by core's own rules. */
  value(option: string, value: unknown): void {
    if (value !== undefined) this.#core(option, value, 'value', { holder: 'a', duration: 1, value: value as string })
  }

  /** A signal, or none. */
  signal(option: string, value: unknown): void {
    const rule = value === undefined ? undefined : brokenSignalRule(value)
    this.must(option, rule === undefined, rule ?? '', value)
  }

  /** How often a lease is renewed, by core's own rule. NaN is told already. */
  renewal(option: string, everyMs: number, durationOption: string, durationMs: number): void {
    if (Number.isNaN(everyMs) || Number.isNaN(durationMs)) return
    const rule = brokenRenewalRule(everyMs, durationOption, durationMs)
    this.must(option, rule === undefined, rule ?? '', everyMs)
  }

  /** A duration in whole milliseconds; NaN when it breaks core's rules, and any comparison with it is false. */
  duration(option: string, value: unknown): number {
    const duration = value as DurationLike
    if (this.#core(option, value, 'duration', { holder: 'a', duration })) return Number.NaN
    return Math.ceil(typeof duration === 'number' ? duration : Duration.fromDurationLike(duration).toMillis())
  }

  /** How long to wait for others, in milliseconds: 0 for a single try, Infinity for as long as it takes; NaN when it breaks a rule. */
  wait(option: string, value: unknown): number {
    if (typeof value === 'boolean') return value ? Number.POSITIVE_INFINITY : 0
    return this.duration(option, value)
  }

  /** As `duration`, of a lease: long enough to be relied on at the instant of the grant. */
  leaseDuration(option: string, value: unknown): number {
    const durationMs = this.duration(option, value)
    if (!(trustWindowMs(durationMs) <= 0)) return durationMs
    this.must(option, false, 'must be longer than the margin for clocks, 1 ms and 0.1 %', value)
    return Number.NaN
  }

  /** @throws ErrNotValid with every problem, if there is one */
  finish(): void {
    if (this.#problems.length > 0) throw notValid(this.#problems)
  }

  /** Asks core about one argument of a request; whether it broke a rule. */
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

/**
 * The signal of a call that takes nothing else.
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
