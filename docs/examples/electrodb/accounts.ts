/** ElectroDB makes the writes, and the lease is one more condition of the transaction. */
import {
  TransactWriteCommand,
  type DynamoDBDocumentClient,
  type TransactWriteCommandInput,
} from '@aws-sdk/lib-dynamodb'
import { Entity } from 'electrodb'
import type { Token } from 'lease-core'
import { DynamoGuard } from 'lease-dynamodb'

const Account = new Entity({
  model: { entity: 'account', version: '1', service: 'bank' },
  attributes: { id: { type: 'string', required: true }, balance: { type: 'number', required: true } },
  indexes: { byId: { pk: { field: 'pk', composite: ['id'] }, sk: { field: 'sk', composite: [] } } },
})

type Update = NonNullable<NonNullable<TransactWriteCommandInput['TransactItems']>[number]['Update']>

/** `params()` is what ElectroDB would send: an item of a transaction in the form of the document client. */
export async function setBalance(
  documents: DynamoDBDocumentClient,
  token: Token,
  account: { readonly table: string; readonly id: string },
  balance: number,
): Promise<void> {
  const { table, id } = account
  const guard = new DynamoGuard()
  await token.check(guard)
  const Update = Account.upsert({ id, balance }).params<Update>({ table })
  const TransactItems = [...guard.documentChecks, { Update }]
  // ErrNotHeld: the lease was lost, and nothing was written
  await guard.transact(TransactItems, () => documents.send(new TransactWriteCommand({ TransactItems })))
}

export async function balanceOf(
  documents: DynamoDBDocumentClient,
  { table, id }: { readonly table: string; readonly id: string },
): Promise<number | undefined> {
  const { data } = await Account.get({ id }).go({ table, client: documents, consistent: true })
  return data?.balance
}
