/** An application's own code: it asks for no more of a manager than it needs, and never for a clock. */
import { ErrClaimDenied, type Checker, type Claimer } from 'lease-core'

/** Sends the newsletter unless another instance is at it; tells whether it did. */
export async function sendNewsletter(
  leases: Claimer & Checker,
  instance: string,
  recipients: readonly string[],
  send: (recipient: string) => Promise<void>,
): Promise<boolean> {
  try {
    await leases.claim('newsletter', instance, { minutes: 5 })
  } catch (error) {
    if (error instanceof ErrClaimDenied) return false // another instance is at it
    throw error
  }
  const token = leases.token('newsletter', instance)
  for (const recipient of recipients) {
    await token.check() // ErrNotHeld: it took too long, and another may have taken over
    await send(recipient)
  }
  return true
}
