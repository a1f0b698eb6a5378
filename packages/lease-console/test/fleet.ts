/** Leases as a company may have them, on the memory store and a test clock: the same at each run. */
import { Manager, memoryClient, MemoryStore, MemorySubstrate } from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock } from 'lease-core/testing'
import { createConsole, serveConsole, type ConsoleOptions, type LeaseConsole, type ServedConsole } from 'lease-console'

/** A store, a manager of workers, and another of the console, which sees the store through a substrate that can fail. */
export class Fleet implements AsyncDisposable {
  readonly clock = new TestClock({ wallMs: Date.UTC(2026, 2, 3, 9, 30) })
  readonly store = new MemoryStore({ clock: this.clock })
  readonly substrate = new FaultySubstrate(new MemorySubstrate({ store: this.store }), { clock: this.clock })
  readonly workers = new Manager({
    client: memoryClient({ store: this.store, clock: this.clock }),
    clock: this.clock,
  })
  readonly manager = new Manager({
    client: new SubstrateClient({ substrate: this.substrate, clock: this.clock }),
    clock: this.clock,
  })
  readonly #consoles: LeaseConsole[] = []
  readonly #served: ServedConsole[] = []

  /** A console over one namespace, `billing`. */
  console(options: Partial<ConsoleOptions> = {}): LeaseConsole {
    const made = createConsole({ managers: { billing: this.manager }, clock: this.clock, ...options })
    this.#consoles.push(made)
    return made
  }

  async serve(options: Partial<ConsoleOptions> = {}): Promise<string> {
    const served = await serveConsole(this.console(options))
    this.#served.push(served)
    return served.url
  }

  /** Claims, for a duration in milliseconds. */
  async claim(lease: string, holder: string, durationMs: number, value?: string): Promise<void> {
    await this.workers.claim(lease, holder, durationMs, { value })
  }

  /** So many leases, `account-000000` and so on, for an hour. */
  async claimMany(count: number): Promise<void> {
    const client = memoryClient({ store: this.store, clock: this.clock })
    const request = { holder: 'worker', duration: 3_600_000 }
    for (let from = 0; from < count; from += 10_000) {
      const names = Array.from({ length: 10_000 }, (_, index) => `account-${String(from + index).padStart(6, '0')}`)
      await Promise.all(names.map((lease) => client.claimLease(lease, request)))
    }
    await client.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const served of this.#served) await served.close()
    for (const one of this.#consoles) await one.close()
    await Promise.all([this.workers.stop(), this.manager.stop()])
  }
}

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS

/** Some hours of a fleet at work. */
export async function someWork(fleet: Fleet): Promise<void> {
  const { clock } = fleet
  const claims: readonly (readonly [ageMs: number, lease: string, holder: string, leftMs: number, value?: string])[] = [
    [51 * HOUR_MS, 'search/reindex', 'indexer-2', 40 * MINUTE_MS],
    [27 * HOUR_MS, 'leader/payments', 'payments-7f9c-x2kd', 24_000],
    [6 * HOUR_MS, 'ledger/close-2026-02', 'ledger-1', 2 * HOUR_MS],
    [95 * MINUTE_MS, 'leader/scheduler', 'scheduler-b8-9qzt', 21_000],
    [47 * MINUTE_MS, 'migrations/billing', 'deploy-4711', 13 * MINUTE_MS],
    [12 * MINUTE_MS, 'invoices', 'worker-14', 26_000, 'batch 118 of 240'],
    [9 * MINUTE_MS, 'payouts/eu', 'worker-03', 17_000],
    [4 * MINUTE_MS, 'payouts/us', 'worker-21', 29_000],
    [95_000, 'mail/digest', 'mailer-5', 9_000],
    [41_000, 'account-42', 'worker-08', 4_000],
    [8_000, 'account-1077', 'worker-02', 22_000],
  ]
  const [[oldestMs] = [0]] = claims
  for (const [ageMs, lease, holder, leftMs, value] of claims) {
    await clock.pause(oldestMs - ageMs - (clock.monotonic() - 5000))
    await fleet.claim(lease, holder, ageMs + leftMs, value)
  }
  await clock.pause(oldestMs - (clock.monotonic() - 5000))
  await fleet.workers.pin('migrations/billing', 'dana')
  await fleet.workers.pin('ledger/close-2026-02', 'finance')
}
