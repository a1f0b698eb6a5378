/** Set-ups that cannot work: whatever is asked fails at once, and says what to change. */
import { expect } from 'chai'
import { ErrUnknown, Manager, type Client } from 'lease-core'
import { unique } from './words.ts'

const asked: Readonly<Record<string, (manager: Manager, lease: string) => Promise<unknown>>> = {
  'a hold that waits': (manager, lease) => manager.hold(lease, 'me', { duration: { seconds: 30 }, wait: true }),
  'a claim': (manager, lease) => manager.claim(lease, 'me', { seconds: 30 }),
  'a wait for a vacancy': (manager, lease) => manager.waitUntilExpired(lease),
  'an observation': (manager, lease) => manager.observe(lease).next(),
}

/**
 * Expects all that is asked of this client to reject, for a set-up that cannot work, with a message that matches. Closes the client.
 *
 * @param only what of it; all unless it is said
 */
export async function failsForSetUp(
  client: Client,
  words: RegExp,
  only: readonly string[] = Object.keys(asked),
): Promise<void> {
  const manager = new Manager({ client })
  try {
    for (const what of only) {
      const error = await asked[what]?.(manager, unique('l')).then(
        () => undefined,
        (thrown: unknown) => thrown,
      )
      expect(error, what).to.be.instanceOf(ErrUnknown).and.have.property('reason', 'set-up')
      expect((error as Error).message, what)
        .to.match(words)
        .and.not.include('it may have happened')
    }
  } finally {
    await manager.stop()
    await client.close()
  }
}
