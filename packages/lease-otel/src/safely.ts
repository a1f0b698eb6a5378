import { diag } from '@opentelemetry/api'

/** The same listener, which never throws: what it throws is reported to the diagnostics of OpenTelemetry, and harms no lease. */
export function safely<A extends readonly unknown[]>(listener: (...args: A) => void): (...args: A) => void {
  return (...args) => {
    try {
      listener(...args)
    } catch (error) {
      diag.error('lease-otel: a listener threw', error)
    }
  }
}

/** Ends that are called once, together. */
export class Ends {
  readonly #ends: (() => void)[] = []

  add(end: () => void): void {
    this.#ends.push(end)
  }

  run(): void {
    for (const end of this.#ends.splice(0)) safely(end)()
  }
}
