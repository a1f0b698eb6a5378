/**
 * Checks the options of an adapter: all problems are reported together, nothing is coerced or ignored.
 *
 * An adapter imports only core and its driver (`docs/decisions/0012`), so what adapters share is here.
 */
import { notValid, type Problem } from './errors.ts'
import { brokenClientOptions, brokenOptionsRule, hasMethods, readOptions } from './options.ts'

/** The options of `SubstrateClient` that an adapter's client passes on, beside `clock`. */
const ofClient = ['events', 'requestTimeout'] as const

/**
 * Collects the broken rules of the options of one adapter:
 *
 *     const checks = new OptionChecks(options, ['pool', 'notify'], { client: true })
 *     checks.must('pool', hasMethods(options.pool, 'connect'), 'must be a pool')
 *     checks.finish()
 *
 * It checks by itself: unknown options, `namespace`, `clock` if it is among the adapter's own options, and with `client: true` the other
 * options of a client (`events`, `requestTimeout`).
 */
export class OptionChecks {
  readonly #options: Readonly<Record<string, unknown>>
  readonly #problems: Problem[] = []

  /** @throws ErrNotValid the options are not an object */
  constructor(options: unknown, own: readonly string[], { client }: { readonly client: boolean }) {
    const known = [...own, 'namespace', ...(client ? ofClient : [])]
    const { read, problems } = readOptions(options as Record<string, unknown>, known)
    if (brokenOptionsRule(options, known) !== undefined) throw notValid(problems)
    this.#options = read
    this.add(problems)
    const namespace = brokenNamespaceRule(this.#options['namespace'])
    this.must('namespace', namespace === undefined, namespace ?? '')
    const { clock, events, requestTimeout } = this.#options
    this.must('clock', clock === undefined || hasMethods(clock, 'now', 'monotonic', 'setTimer'), 'must be a Clock')
    if (client) this.add(brokenClientOptions({ events, requestTimeout }))
  }

  /** Notes a problem unless the option is `sound`. */
  must(option: string, sound: boolean, rule: string): void {
    if (!sound) this.#problems.push({ argument: option, rule, value: this.#options[option] })
  }

  /** Adds problems found elsewhere. */
  add(problems: readonly Problem[]): void {
    this.#problems.push(...problems)
  }

  /** @throws ErrNotValid with every problem, if there is one */
  finish(): void {
    if (this.#problems.length > 0) throw notValid(this.#problems)
  }
}

/** Returns the rule that this namespace breaks; undefined when it is valid for every adapter. */
export function brokenNamespaceRule(namespace: unknown): string | undefined {
  if (typeof namespace !== 'string') return 'must be a string'
  if (namespace === '') return 'must not be empty'
  if (namespace.includes('\0') || /\p{Cs}/u.test(namespace)) return 'must be well-formed Unicode without NUL'
  return Buffer.byteLength(namespace) > 255 ? 'must be at most 255 bytes' : undefined
}
