/**
 * What the refusal of a release means. A lease that is vacant or another's by now is given up. One that a process of the same
 * holder name has adopted is not: it stays held.
 */
import { ErrNotHeld, type Manager } from 'lease-core'

/** For the `catch` of a release. @throws the error, unless it says that the lease is given up */
export function unlessGone(error: unknown): void {
  if (!(error instanceof ErrNotHeld) || error.reason === ADOPTED) throw error
}

/** Whether what was released is given up; false: another process has adopted it. @throws what else went wrong */
export async function isGone(released: Promise<void>): Promise<boolean> {
  try {
    await released
    return true
  } catch (error) {
    if (error instanceof ErrNotHeld && error.reason === ADOPTED) return false
    throw error
  }
}

/** Gives a lease up by the name of its holder, whichever process has it. @throws what the release does, but for `unlessGone` */
export async function releaseAnywhere(manager: Pick<Manager, 'release'>, lease: string, holder: string): Promise<void> {
  const release = (): Promise<void> => manager.release(lease, holder).catch(unlessGone)
  if (await isGone(release())) return
  await release() // this process knew a term that is another's by now; it has forgotten it, and goes by the store
}

/** As `Hold.release` says. */
const ADOPTED = 'adopted'
