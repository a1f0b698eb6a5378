/** What examples of guards are run with: one worker who relies on a lease, and another who takes it away. */
import { Manager, type Client, type Token } from 'lease-core'

export interface Rivals extends AsyncDisposable {
  /** A new lease, held by worker-1, who relies on it. */
  hold(): Promise<Token>
  /** An operator frees the lease and worker-2, another process, claims it. Worker-1 does not know yet. */
  takeOver(token: Token): Promise<void>
}

export function openRivals(newClient: () => Client): Rivals {
  const clients = [newClient(), newClient()]
  const [mine, theirs] = clients.map((client) => new Manager({ client })) as [Manager, Manager]
  let leases = 0
  return {
    async hold() {
      const lease = `accounts-${++leases}`
      await mine.claim(lease, 'worker-1', { seconds: 30 })
      return mine.token(lease, 'worker-1')
    },
    async takeOver({ lease }) {
      await theirs.revoke(lease)
      await theirs.claim(lease, 'worker-2', { seconds: 30 })
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([mine.stop(), theirs.stop()])
      await Promise.all(clients.map((client) => client.close()))
    },
  }
}

/** What the work rejected with; undefined when it did not. */
export async function failure(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  )
}
