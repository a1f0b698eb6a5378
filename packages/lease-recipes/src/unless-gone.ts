/**
 * What a refused release means. If the lease is vacant, or another holder has it, the release is done. If another process of the same
 * holder name has adopted the term, the lease stays held.
 */
import { ErrNotHeld, type Manager } from 'lease-core'

/** For the `catch` of a release. @throws the error, unless it says that this holder no longer has the lease */
export function unlessGone(error: unknown): void {
  if (!(error instanceof ErrNotHeld) || error.reason === ADOPTED) throw error
}

/** Whether the release is done; false: another process has adopted the term. @throws any other error */
export async function isGone(released: Promise<void>): Promise<boolean> {
  try {
    await released
    return true
  } catch (error) {
    if (error instanceof ErrNotHeld && error.reason === ADOPTED) return false
    throw error
  }
}

/** Releases a lease by the name of its holder, in whichever process it is. @throws as the release, except for `unlessGone` */
export async function releaseAnywhere(manager: Pick<Manager, 'release'>, lease: string, holder: string): Promise<void> {
  const release = (): Promise<void> => manager.release(lease, holder).catch(unlessGone)
  if (await isGone(release())) return
  await release() // this process has now forgotten its outdated term, so this release goes by the store
}

/** The `reason` of `Hold.release`. */
const ADOPTED = 'adopted'
