/** Test set-up for the examples of guards: one worker relies on a lease, and another takes it over. */
import { Manager, type Client, type Token } from 'lease-core'

export interface Rivals extends AsyncDisposable {
  /** A new lease that worker-1 holds and relies on. */
  hold(): Promise<Token>
  /** An operator revokes the lease, and worker-2 claims it from another process. Worker-1 does not know yet. */
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

/** The error that the work rejected with; undefined when it resolved. */
export async function failure(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  )
}
