/** What the server's set-up takes away from the promises. */
import type { SubstrateWarning } from 'lease-core'
import { explained } from './connection.ts'

/** @param answer of `inspectScript` */
export function inspectionWarnings([
  refusal = '',
  silence = '',
  memory = '',
  persistence = '',
]: readonly string[]): SubstrateWarning[] {
  const warnings: SubstrateWarning[] = []
  const warn = (applies: boolean, warning: string, message: string): void => {
    if (applies) warnings.push({ warning, message })
  }
  const replica = refusal.startsWith('READONLY')
  warn(
    replica,
    'replica',
    'The server is a replica: no lease can be claimed or read here. Connect to the master (by Sentinels, or as a Cluster).',
  )
  warn(refusal !== '' && !replica, 'no-writes', `No lease can be claimed here: ${wordsFor(refusal)}.`)
  warn(
    silence !== '',
    'publish-forbidden',
    `Vacated leases cannot be announced (${silence}): who waits for one learns of it by timer only. Allow the channel of the leases (ACL: &).`,
  )
  warn(
    memory === '' || persistence === '',
    'settings-unreadable',
    'INFO is forbidden for this user, so nobody has checked that maxmemory-policy is noeviction and that grants survive a restart.',
  )
  const policy = settingIn(memory, 'maxmemory_policy')
  warn(
    policy !== undefined && policy !== 'noeviction',
    'eviction',
    `maxmemory-policy is ${policy}: a full server may throw leases away while they are held, and another may then be granted the same lease. Set it to noeviction.`,
  )
  warn(
    settingIn(persistence, 'aof_enabled') === '0',
    'no-append-only-file',
    'The server keeps no append-only file: a restart forgets the grants since the last snapshot, and another may then be granted the same lease. Set appendonly to yes.',
  )
  return warnings
}

function wordsFor(refusal: string): string {
  const error = explained(new Error(refusal))
  return error instanceof Error ? error.message : refusal
}

function settingIn(info: string, name: string): string | undefined {
  return new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1]
}
