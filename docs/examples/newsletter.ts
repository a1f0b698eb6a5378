/** Application code: it takes only the parts of a manager that it needs, and no clock. */
import { ErrClaimDenied, type Checker, type Claimer } from 'lease-core'

/** Sends the newsletter, unless another instance is sending it. Returns whether it did. */
export async function sendNewsletter(
  leases: Claimer & Checker,
  instance: string,
  recipients: readonly string[],
  send: (recipient: string) => Promise<void>,
): Promise<boolean> {
  try {
    await leases.claim('newsletter', instance, { minutes: 5 })
  } catch (error) {
    if (error instanceof ErrClaimDenied) return false // another instance is sending it
    throw error
  }
  const token = leases.token('newsletter', instance)
  for (const recipient of recipients) {
    await token.check() // ErrNotHeld: sending took too long, and another instance may have taken over
    await send(recipient)
  }
  return true
}
