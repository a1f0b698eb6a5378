/** What the server's version and state take away from the promises. */
import type { SubstrateWarning } from 'lease-core/adapter'

interface Fix {
  /** The first release with the fix, by minor version; minors above the last one have it from the start. */
  readonly fixedIn: Readonly<Record<number, number>>
  readonly warning: string
  readonly message: string
}

const fixes: readonly Fix[] = [
  {
    fixedIn: { 4: 31, 5: 13 },
    warning: 'old-leader-revokes',
    message:
      'this etcd lets a leader that was replaced without noticing end etcd leases that the new one has renewed (fixed in 3.4.31 and 3.5.13). Leases of this library are not renewed that way, so none is lost by it; other users of the same etcd may be hit.',
  },
  {
    fixedIn: { 4: 42, 5: 28, 6: 9 },
    warning: 'stale-reads',
    message:
      'a member of this etcd that was paused may answer one read with what was true before (fixed in 3.4.42, 3.5.28 and 3.6.9). Claims and guards are transactions and not affected; check() without a guard, and leases(), may still show a term that has ended.',
  },
  {
    fixedIn: { 4: 44, 5: 30, 6: 11 },
    warning: 'rights-unchecked',
    message:
      'this etcd does not check rights inside nested transactions (fixed in 3.4.44, 3.5.30 and 3.6.11): where authentication is on, everyone who can reach it may claim and release leases, and write any other key.',
  },
]

/** What this version is known for. */
export function versionWarnings(version: string): SubstrateWarning[] {
  const [major, minor, patch] = version.split('.').map((part) => Number.parseInt(part, 10)) as [number, number, number]
  if (major !== 3 || !Number.isInteger(minor) || !Number.isInteger(patch)) return []
  if (minor < 4) {
    return [{ warning: 'etcd-too-old', message: `this etcd is ${version}: it needs to be 3.4 or later.` }]
  }
  return fixes
    .filter(({ fixedIn }) => patch < (fixedIn[minor] ?? 0))
    .map(({ warning, message }) => ({ warning, message: `${message} It runs ${version}.` }))
}

/** What these alarms mean. */
export function alarmWarnings(alarms: readonly string[]): SubstrateWarning[] {
  const warnings: SubstrateWarning[] = []
  const raised = new Set(alarms.map((alarm) => alarm.toUpperCase()))
  if (raised.has('NOSPACE')) {
    warnings.push({
      warning: 'no-space',
      message:
        'the database of etcd is full (alarm NOSPACE): leases can soon neither be claimed nor extended. Compact, defragment and disarm the alarm, or raise --quota-backend-bytes.',
    })
  }
  if (raised.has('CORRUPT')) {
    warnings.push({
      warning: 'corrupt',
      message: 'members of this etcd do not agree on their data (alarm CORRUPT): nothing it says can be relied on.',
    })
  }
  return warnings
}

/** The server does not let this user watch. */
export function watchWarning(reason: string): SubstrateWarning {
  return {
    warning: 'watch-refused',
    message: `this etcd does not let the client watch its keys (${reason}): a waiter hears of a vacancy only when it looks by itself. Give the role of its user read rights on all keys that begin with the prefix.`,
  }
}
