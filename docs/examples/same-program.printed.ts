/** What the same program prints, on every store. */
export const printed: readonly string[] = [
  'ben claims: LEASE_CLAIM_DENIED',
  'ann checks and works',
  'ben sees: the leader is ann at http://ann',
  'ben leads: the fencing token rises',
  'ben leads no more: LEASE_LOST, revoked',
  'ben takes over: the fencing token rises',
  'ann checks: LEASE_NOT_HELD',
  'leases left: 0',
]
