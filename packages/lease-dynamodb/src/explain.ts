/** What the failures of DynamoDB and of its SDK mean, and what to do about them. */
import { reasonOf } from 'lease-core'
import { StoreFailure, withoutSecrets } from 'lease-core/adapter'

interface Explanation {
  /** Matched against the name of the error and its message. */
  readonly pattern: RegExp
  /** It comes back until somebody changes the set-up. */
  readonly isSetUp?: true
  /** The server refused the request as it is: nothing was done, and nothing will be. */
  readonly isRefusal?: true
  /** Nothing was done, if this was the first attempt of the SDK. */
  readonly isBusy?: true
  /** Another request is at the same item. */
  readonly isConflict?: true
  readonly words: string
}

const explanations: readonly Explanation[] = [
  {
    pattern: /ResourceNotFoundException/,
    isSetUp: true,
    isRefusal: true,
    words: 'there is no such table in this region and account: create it with createTable({ client, table })',
  },
  {
    pattern:
      /ValidationException.*(key element|key schema|number of conditions on the keys|missed key condition|query key condition)/is,
    isSetUp: true,
    isRefusal: true,
    words:
      'the table has another primary key: it needs the hash key ns (S) and the range key nm (S); createTable({ client, table }) makes one',
  },
  {
    pattern: /Item size.*exceeded|ItemSizeLimit|item.*maximum allowed size/is,
    isRefusal: true,
    words:
      'the item would be above the 400 KB that DynamoDB allows: remove pins, or attributes that others have put there',
  },
  {
    pattern: /AccessDeniedException|not authorized to perform/i,
    isSetUp: true,
    isRefusal: true,
    words: 'these credentials lack a right on the table: iamPolicy({ table }) prints what is needed',
  },
  {
    pattern:
      /CredentialsProviderError|Could not load credentials|UnrecognizedClientException|InvalidSignatureException|MissingAuthenticationToken|ExpiredToken|IncompleteSignature|InvalidClientTokenId|NotAuthorizedException/i,
    isSetUp: true,
    isRefusal: true,
    words:
      'AWS does not know who this is: give the DynamoDBClient credentials, by its option, the environment, a profile or a role',
  },
  {
    pattern: /Region is missing/,
    isSetUp: true,
    isRefusal: true,
    words: 'the DynamoDBClient has no region: new DynamoDBClient({ region }), or AWS_REGION',
  },
  {
    pattern: /ProvisionedThroughputExceeded|ThrottlingException|RequestLimitExceeded|LimitExceeded|ThrottlingError/,
    isBusy: true,
    words:
      'DynamoDB throttles these requests: raise the capacity of the table, or spread the leases over more namespaces',
  },
  {
    pattern: /TransactionConflict|TransactionInProgress/,
    isBusy: true,
    isConflict: true,
    words: 'a transaction on the same item is under way',
  },
  {
    pattern: /ENOTFOUND|EAI_AGAIN/,
    words: 'the host name of DynamoDB cannot be resolved: check region and endpoint of the DynamoDBClient',
  },
  {
    pattern: /ECONNREFUSED/,
    isBusy: true,
    words: 'DynamoDB cannot be reached: check region and endpoint of the DynamoDBClient',
  },
]

function explanationOf(error: unknown): Explanation | undefined {
  if (!(error instanceof Error)) return undefined
  const { code } = error as { readonly code?: unknown }
  const text = `${error.name} ${typeof code === 'string' ? code : ''}: ${error.message} ${reasonsIn(error).join(' ')}`
  return explanations.find(({ pattern }) => pattern.test(text))
}

/** The codes and messages of a cancelled transaction. */
function reasonsIn(error: Error): readonly string[] {
  const { CancellationReasons = [] } = error as { readonly CancellationReasons?: readonly Cancellation[] | undefined }
  return CancellationReasons.map(({ Code = '', Message = '' }) => `${Code} ${Message}`)
}

/** Why one item of a transaction was in the way. */
export interface Cancellation {
  readonly Code?: string | undefined
  readonly Message?: string | undefined
  readonly Item?: unknown
}

/** How often the SDK has sent it. Where it was more than once, an earlier copy may have been executed. */
function attemptsOf(error: unknown): number {
  const { $metadata } = error as { readonly $metadata?: { readonly attempts?: unknown } | undefined }
  return typeof $metadata?.attempts === 'number' ? $metadata.attempts : 1
}

/** The error with advice in front, or the error itself where there is none to give; `cause` is always the original. */
export function explained(error: unknown): unknown {
  if (error instanceof StoreFailure) return error
  const { words, isSetUp, isRefusal, isBusy, isConflict = false } = explanationOf(error) ?? {}
  if (words === undefined) return error
  const isNotDone = attemptsOf(error) <= 1 && (isRefusal === true || isBusy === true)
  const message = withoutSecrets(`${words} (${(error as Error).name}: ${reasonOf(error)})`)
  return new StoreFailure(message, { cause: error, isSetUp, isNotDone, isContended: isConflict && isNotDone })
}

/** The same failure, of a read: nothing was written. */
export function ofRead(error: unknown): StoreFailure {
  const failure = explained(error)
  const { isSetUp, isContended, cause } =
    failure instanceof StoreFailure ? failure : { isSetUp: false, isContended: false, cause: error }
  return new StoreFailure(reasonOf(failure), { cause, isSetUp, isContended, isNotDone: true })
}

export function isNamed(error: unknown, name: string): boolean {
  return error instanceof Error && error.name === name
}
