<?php
// The page of the demo: which host answers, the table `product`, and a form that adds a row.
// GET / shows it, GET /?format=json gives the same as data, POST / with `name` (and `price`) inserts a row: 303 to the
// page, or 201 with JSON when asked for. When the database is away the answer is a quick 503 that says so.
declare(strict_types=1);

require __DIR__ . '/../lib/store.php';

const ROWS_SHOWN = 50;

$host = getenv('BATON_NODE') ?: 'unknown';
$json = ($_GET['format'] ?? '') === 'json' || str_contains($_SERVER['HTTP_ACCEPT'] ?? '', 'application/json');
$method = $_SERVER['REQUEST_METHOD'];
$error = null;
$status = 200;
$count = 0;
$rows = [];

/** Sends `data` as JSON and ends the request. */
function answer(int $status, array $data): never
{
    http_response_code($status);
    header('Content-Type: application/json');
    exit(json_encode($data, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE) . "\n");
}

try {
    if ($method === 'POST') {
        [$name, $price] = product_from($_POST);
        $id = insert_product(connect(WRITE_TIMEOUT_S), $name, $price);
        if ($json) {
            answer(201, ['served_by' => $host, 'id' => $id, 'name' => $name, 'price' => $price]);
        }
        header('Location: /?added=' . $id, true, 303);
        exit;
    }
    if ($method !== 'GET' && $method !== 'HEAD') {
        header('Allow: GET, HEAD, POST');
        answer(405, ['served_by' => $host, 'error' => 'only GET, HEAD and POST are understood']);
    }
    $db = connect(READ_TIMEOUT_S);
    $count = count_products($db);
    $rows = newest_products($db, ROWS_SHOWN);
} catch (InvalidArgumentException $e) {
    [$status, $error] = [422, $e->getMessage()];
} catch (mysqli_sql_exception $e) {
    error_log('database: ' . $e->getMessage());
    if ($e->getCode() === DUPLICATE_KEY) {
        [$status, $error] = [409, 'A product of this name is there already.'];
    } elseif ($method === 'POST') {
        [$status, $error] = [503, 'The database did not confirm the row. It may or may not be stored: look before you repeat.'];
    } else {
        [$status, $error] = [503, "The database on $host does not answer at the moment. Nothing that it confirmed is lost."];
    }
}

if ($json) {
    answer($status, $error === null
        ? ['served_by' => $host, 'count' => $count, 'rows' => $rows]
        : ['served_by' => $host, 'error' => $error]);
}
http_response_code($status);
if ($status === 503) {
    header('Retry-After: 1');
}
require __DIR__ . '/../lib/page.php';
