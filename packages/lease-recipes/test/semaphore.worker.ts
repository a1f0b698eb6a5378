/** One process of the race: takes permits again and again, and reports on which it relied, and when. */
import { ErrClaimDenied, ErrUnknown, Manager } from 'lease-core'
import { Semaphores, type Permit } from '#src/semaphore.ts'
import { nowMs, openClient, recordReliance, workerEntry } from 'lease-chaos'

const entry = workerEntry()
const semaphores = new Semaphores({ manager: new Manager({ client: openClient(entry).client }) })

async function race(runner: string): Promise<never> {
  for (let round = 0; ; round++) {
    try {
      const keepAlive = Math.random() < 0.2
      const timeoutMs = entry.leaseMs * (0.5 + Math.random())
      const permit = await semaphores.post('race', `${runner}-${round}`, timeoutMs, { keepAlive })
      const forgotten = !keepAlive && Math.random() < 0.03
      await rely(permit, forgotten ? Number.POSITIVE_INFINITY : Math.random() * 10)
      await permit.close()
    } catch (error) {
      if (!(error instanceof ErrClaimDenied || error instanceof ErrUnknown)) throw error
    }
  }
}

/** Relies on the permit for so long, or until it is not held any more. */
async function rely(permit: Permit, workMs: number): Promise<void> {
  const fromMs = nowMs()
  await recordReliance(permit, () => permit.held && nowMs() - fromMs < workMs, 2)
}

await Promise.all([0, 1].map((runner) => race(`${entry.name}-${runner}`)))
