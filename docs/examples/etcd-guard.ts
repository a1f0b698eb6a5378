/** Guarded transactions in etcd: the lease is one more condition of your own transaction. */
import type { Etcd3 } from 'etcd3'
import type { Token } from 'lease-core'
import { EtcdGuard } from 'lease-etcd'

/** The key is a guard that becomes a comparison: etcd runs `then` only while the lease is held. */
export async function setBalance(etcd: Etcd3, token: Token, account: string, balance: number): Promise<void> {
  const guard = new EtcdGuard()
  await token.check(guard)
  const result = await etcd
    .if(...guard.comparison)
    .then(etcd.put(account).value(balance))
    .commit()
  guard.assertHeld(result) // ErrNotHeld: the lease was lost, and nothing was put
}

/** A guard that several tokens have checked requires every one of their leases. */
export async function setUnderBoth(
  etcd: Etcd3,
  tokens: readonly Token[],
  account: string,
  balance: number,
): Promise<void> {
  const guard = new EtcdGuard()
  for (const token of tokens) await token.check(guard)
  const result = await guard.if(etcd).then(etcd.put(account).value(balance)).commit()
  guard.assertHeld(result)
}

/**
 * With a condition of your own beside it: withdraws only from the balance that was read. When the transaction fails, `else`
 * shows which condition failed.
 */
export async function withdraw(etcd: Etcd3, token: Token, account: string, amount: number): Promise<boolean> {
  const before = (await etcd.get(account).exec()).kvs[0]
  if (before === undefined) return false
  const guard = new EtcdGuard()
  await token.check(guard)
  const balance = Number(before.value) - amount
  const result = await guard
    .if(etcd)
    .and(account, 'Mod', '==', before.mod_revision)
    .then(etcd.put(account).value(balance))
    .else(etcd.get(account))
    .commit()
  if (result.succeeded) return true
  const now = result.responses[0]?.response_range.kvs[0]
  if (now?.mod_revision === before.mod_revision) guard.assertHeld(result) // the account is unchanged, so the lease was lost
  return false // another transaction has changed the account
}
