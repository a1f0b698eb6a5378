/** One process of the race: takes permits again and again, and reports on which it relied, and when. */
import { ErrClaimDenied, ErrUnknown, Manager } from 'lease-core'
import { Semaphores, type Permit } from '#src/semaphore.ts'
import { nowMs, openClient, racerEntry, report } from './racer.ts'

const entry = racerEntry()
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

/** Relies on the permit for so long, or until it is not held any more. Reports the first and the last instant at which it was. */
async function rely(permit: Permit, workMs: number): Promise<void> {
  const token = `${permit.lease} ${permit.fencingToken}`
  const fromMs = nowMs()
  if (!permit.held) return
  report({ what: 'relied', token, atMs: fromMs })
  let toMs = fromMs
  for (let atMs = nowMs(); permit.held && atMs - fromMs < workMs; atMs = nowMs()) {
    toMs = atMs // it was held after that
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  report({ what: 'relied', token, atMs: toMs })
}

await Promise.all([0, 1].map((runner) => race(`${entry.name}-${runner}`)))
