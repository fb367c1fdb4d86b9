# ruff: noqa: E501
"""The headers of logs: of published data sets and exports of programs, and such as shops and sites may have."""

import pytest

from palate.errors import InputError
from palate.ratings.layout import column_of

HEADERS = """
MovieLens | userId,movieId,rating,timestamp | userId movieId rating timestamp
MovieLens on Kaggle | "userId","movieId","rating","timestamp" | userId movieId rating timestamp
MovieLens, all stars in words | UserID,MovieID,Rating,Timestamp | UserID MovieID Rating Timestamp
Amazon reviews 2014 | reviewerID,asin,reviewerName,helpful,reviewText,overall,summary,unixReviewTime,reviewTime | reviewerID asin overall unixReviewTime
Amazon reviews 2018 | overall,vote,verified,reviewTime,reviewerID,asin,style,reviewerName,reviewText,summary,unixReviewTime | reviewerID asin overall unixReviewTime
Amazon Reviews 2023 | rating,title,text,images,asin,parent_asin,user_id,timestamp,helpful_vote,verified_purchase | user_id parent_asin rating timestamp
Amazon Reviews 2023, ratings only | user_id,parent_asin,rating,timestamp | user_id parent_asin rating timestamp
Amazon customer reviews (AWS) | marketplace,customer_id,review_id,product_id,product_parent,product_title,product_category,star_rating,helpful_votes,total_votes,vine,verified_purchase,review_headline,review_body,review_date | customer_id product_id star_rating review_date
Amazon fine foods | Id,ProductId,UserId,ProfileName,HelpfulnessNumerator,HelpfulnessDenominator,Score,Time,Summary,Text | UserId ProductId Score Time
Kindle reviews | asin,helpful,overall,reviewText,reviewTime,reviewerID,reviewerName,summary,unixReviewTime | reviewerID asin overall unixReviewTime
Goodreads interactions | user_id,book_id,is_read,rating,is_reviewed | user_id book_id rating -
Goodreads reviews | user_id,book_id,review_id,rating,review_text,date_added,date_updated,read_at,started_at,n_votes,n_comments | user_id book_id rating date_added
goodbooks-10k | user_id,book_id,rating | user_id book_id rating -
Book-Crossing | "User-ID";"ISBN";"Book-Rating" | User-ID ISBN Book-Rating -
Yelp | review_id,user_id,business_id,stars,useful,funny,cool,text,date | user_id business_id stars date
Steam on Kaggle | app_id,helpful,funny,date,is_recommended,hours,user_id,review_id | user_id app_id is_recommended date
Steam's API | recommendationid,author.steamid,app_id,language,review,timestamp_created,timestamp_updated,voted_up,votes_up | author.steamid app_id voted_up timestamp_created
Anime | user_id,anime_id,rating | user_id anime_id rating -
MyAnimeList 2020 | user_id,anime_id,rating,watching_status,watched_episodes | user_id anime_id rating -
MyAnimeList, users by name | username,anime_id,my_watched_episodes,my_start_date,my_finish_date,my_score,my_status,my_rewatching,my_last_updated,my_tags | username anime_id my_score my_last_updated
Last.fm hetrec | userID,artistID,weight | userID artistID - -
Last.fm plays | user_id,timestamp,artist_id,artist_name,track_id,track_name | user_id ? - timestamp
Food.com | user_id,recipe_id,date,rating,review | user_id recipe_id rating date
BeerAdvocate | brewery_id,brewery_name,review_time,review_overall,review_aroma,review_appearance,review_profilename,beer_style,beer_name,beer_abv,beer_beerid | review_profilename beer_beerid review_overall review_time
RateBeer | beer/name,beer/beerId,review/overall,review/time,review/profileName | review/profileName beer/beerId review/overall review/time
Jester | userId,jokeId,rating | userId jokeId rating -
Netflix | Cust_Id,Movie_Id,Rating,Date | Cust_Id Movie_Id Rating Date
Retailrocket | timestamp,visitorid,event,itemid,transactionid | visitorid itemid - timestamp
H&M | t_dat,customer_id,article_id,price,sales_channel_id | customer_id article_id - t_dat
Online Retail | InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country | CustomerID StockCode - InvoiceDate
Google local reviews | user_id,time,rating,text,pics,resp,gmap_id | user_id gmap_id rating time
ModCloth | item_id,user_id,rating,timestamp,size,fit,user_attr,model_attr,category,brand,year,split | user_id item_id rating timestamp
Rent the Runway | fit,user_id,bust size,item_id,weight,rating,rented for,review_text,body type,review_summary,category,height,size,age,review_date | user_id item_id rating review_date
Douban | RATING_ID,USER_MD5,MOVIE_ID,RATING,RATING_TIME | USER_MD5 MOVIE_ID RATING RATING_TIME
Ciao | userID,itemID,genreID,reviewID,rating,date | userID itemID rating date
MovieTweetings | user_id,movie_id,rating,rating_timestamp | user_id movie_id rating rating_timestamp
KuaiRec | user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio | user_id video_id watch_ratio timestamp
Judge.me | title,body,rating,review_date,source,curated,reviewer_name,reviewer_email,product_id,product_handle,reply,picture_urls | ? product_id rating review_date
Google Play reviews | reviewId,userName,userImage,content,score,thumbsUpCount,reviewCreatedVersion,at,replyContent,repliedAt,appId | userName appId score at
Google Analytics 4 | event_date,event_timestamp,event_name,user_pseudo_id,item_id | user_pseudo_id item_id - ?
Snowplow | domain_userid,item_id,collector_tstamp,event_time | domain_userid item_id - event_time
RecBole | user_id:token,item_id:token,rating:float,timestamp:float | user_id item_id rating timestamp
LensKit | user,item,rating,timestamp | user item rating timestamp
Surprise | uid,iid,rating | uid iid rating -
Spark's ALS | userId,itemId,rating | userId itemId rating -
TensorFlow Recommenders | movie_id,movie_title,timestamp,user_id,user_rating | user_id movie_id user_rating timestamp
Microsoft Recommenders | userID,itemID,rating,timestamp | userID itemID rating timestamp
Gorse | feedback_type,user_id,item_id,value,time_stamp | user_id item_id - time_stamp
Amazon Personalize | USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE | USER_ID ITEM_ID EVENT_VALUE TIMESTAMP
Recombee | userId,itemId,timestamp,rating | userId itemId rating timestamp
Podcast reviews | podcast_id,title,content,rating,author_id,created_at | author_id podcast_id rating created_at
Sephora | author_id,rating,is_recommended,helpfulness,submission_time,review_text,review_title,product_id,product_name,brand_name | author_id product_id rating submission_time
Rotten Tomatoes | rotten_tomatoes_link,critic_name,top_critic,publisher_name,review_type,review_score,review_date,review_content | critic_name rotten_tomatoes_link review_score review_date
restaurants of UCI | userID,placeID,rating,food_rating,service_rating | userID placeID rating -
Airbnb reviews | listing_id,id,date,reviewer_id,reviewer_name,comments | reviewer_id listing_id - date
Coursera reviews | reviews,reviewers,date_reviews,rating,course_id | reviewers course_id rating date_reviews
Yahoo! Music | user_id,song_id,rating | user_id song_id rating -
Delicious hetrec | userID,bookmarkID,tagID,timestamp | userID bookmarkID - timestamp
MovieLens hetrec | userID,movieID,rating,timestamp | userID movieID rating timestamp
Taobao behaviour | user_id,item_id,category_id,behavior_type,timestamp | user_id item_id - timestamp
Diginetica | session_id;user_id;item_id;timeframe;eventdate | user_id item_id - eventdate
OTTO | session,aid,ts,type | session aid - ts
PixelRec | item_id,user_id,timestamp | user_id item_id - timestamp
MicroLens | user,item,timestamp | user item - timestamp
Yambda | uid,timestamp,item_id,is_organic,played_ratio_pct,track_length_seconds | uid item_id - timestamp
EB-NeRD | impression_id,article_id,impression_time,read_time,scroll_percentage,device_type,user_id | user_id article_id - impression_time
MovieLens 100k on Kaggle | user_id,item_id,rating,timestamp | user_id item_id rating timestamp
Million Song plays | user_id,song_id,play_count | user_id song_id - -
wine reviews | country,designation,points,price,taster_name,title,variety,winery,wine_id,review_date | taster_name wine_id - review_date
Tenrec | user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age | user_id item_id - -
CiteULike | user_id,article_id | user_id article_id - -
LibraryThing | user,book_id,stars,unixtime | user book_id stars unixtime
Epinions | user_id,item_id,category_id,rating,helpfulness,timestamp | user_id item_id rating timestamp
Yelp 2013 as CSV | "business_id","date","review_id","stars","text","type","user_id","cool","useful","funny" | user_id business_id stars date
Movies and TV of Amazon as text | product/productId,review/userId,review/profileName,review/score,review/time | review/userId product/productId review/score review/time
Online Retail II | Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country | Customer ID StockCode - InvoiceDate
Steam of UCSD | user_id,user_url,reviews[].funny,reviews[].posted,reviews[].last_edited,reviews[].item_id,reviews[].helpful,reviews[].recommend,reviews[].review | user_id reviews[].item_id reviews[].recommend reviews[].posted
Steam reviews 2021 on Kaggle | app_id,app_name,review_id,language,review,timestamp_created,timestamp_updated,recommended,votes_helpful,author.steamid | author.steamid app_id recommended timestamp_created
REES46 shops | event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session | user_id product_id - event_time
Tmall of IJCAI-15 | user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type | user_id item_id - time_stamp
Tianchi mobile | user_id,item_id,behavior_type,user_geohash,item_category,time | user_id item_id - time
JData | user_id,sku_id,time,model_id,type,cate,brand | user_id sku_id - time
Outbrain's page views | uuid,document_id,timestamp,platform,geo_location,traffic_source | uuid document_id - timestamp
nowplaying-RS | user_id,track_id,hashtag,created_at | user_id track_id - created_at
Dressipi of RecSys 2022 | session_id,item_id,date | session_id item_id - date
MyAnimeList 2023 | user_id,Username,anime_id,Anime Title,rating | user_id anime_id rating -
Letterboxd on Kaggle | _id,movie_id,rating_val,user_id | user_id movie_id rating_val -
BoardGameGeek 2022 | BGGId,Rating,Username | Username BGGId Rating -
Ta Feng | TRANSACTION_DT,CUSTOMER_ID,AGE_GROUP,PIN_CODE,PRODUCT_SUBCLASS,PRODUCT_ID,AMOUNT,ASSET,SALES_PRICE | CUSTOMER_ID PRODUCT_ID - TRANSACTION_DT
Udemy on Kaggle | id,course_id,rate,date,display_name,comment | display_name course_id rate date
Food.com, split | user_id,recipe_id,date,rating,u,i | user_id recipe_id rating date
dunnhumby | household_key,BASKET_ID,DAY,PRODUCT_ID,QUANTITY,SALES_VALUE,STORE_ID,RETAIL_DISC,TRANS_TIME,WEEK_NO | household_key PRODUCT_ID - DAY
KKBox | msno,song_id,source_system_tab,source_screen_name,source_type,target | msno song_id - -
"""
"""A public data set or export, its header, and the columns of user, item, rating and time; `-` for none, `?` where two can be meant."""
MADE_UP = """
a shop's reviews | customer_id,product_id,stars,date | customer_id product_id stars date
a shop's orders | order_id,customer_id,sku,quantity,order_date | customer_id sku - order_date
a Shopify export | Customer Email,Product ID,Rating,Created at | Customer Email Product ID Rating Created at
a course site | Member ID;Course ID;Rating;Rated At | Member ID Course ID Rating Rated At
a library | reader_id,book_id,grade,date_added | reader_id book_id grade date_added
a podcast app | listener_id,episode_id,liked,played_at | listener_id episode_id - played_at
a news site | visitor_id,article_id,clicked,clicked_at | visitor_id article_id - clicked_at
a hotel site | Reviewer ID,Hotel ID,Review Score,Review Date | Reviewer ID Hotel ID Review Score Review Date
a game shop | player_id,game_id,score,created_at | player_id game_id score created_at
a music service | account_id,track_id,thumb,ts | account_id track_id thumb ts
a video service | profile_id,show_id,stars,watched_date | profile_id show_id stars watched_date
a wine shop | buyer_id,wine_id,rating_value,rating_date | buyer_id wine_id rating_value rating_date
a marketplace | client_id,offer_id,score,created_at | client_id offer_id score created_at
an app store | user_uuid_key,account,app_id,star_rating,review_date | account app_id star_rating review_date
a job board | member_id,job_id,preference,event_time | member_id job_id preference event_time
a board game site | user,boardgame_id,rating,posted_at | user boardgame_id rating posted_at
a manga site | user_id,manga_id,score,updated_at | user_id manga_id score updated_at
a recipe site | user_name,user_id,recipe_id,rating,submitted | user_id recipe_id rating submitted
a cinema | customer,film,grade,date | customer film grade date
a bookshop | customer,book,stars,order_date | customer book stars order_date
a record shop | customer_no,cust_id,album_id,rating,purchase_date | cust_id album_id rating purchase_date
a travel site | person_id,venue_id,overall,review_time | person_id venue_id overall review_time
a forum | voter_id,post_id,vote,voted_at | voter_id post_id vote voted_at
a question site | user_id,question_id,score,created_at | user_id question_id score created_at
an ad log | uid,ad_id,clicked,click_time | uid ad_id - click_time
a TV guide | household_id,program_id,rating,time | household_id program_id rating time
a German shop | Kunde Nr;Artikel;Sterne;Datum | Kunde Nr Artikel Sterne Datum
"""
"""As `HEADERS`, of logs that nobody published: how a shop or a site may call its columns."""
CASES = [line.split(" | ") for line in (HEADERS + MADE_UP).splitlines() if line]


def found(role: str, names: list[str]) -> str:
    try:
        return column_of(role, names, {}, "log.csv") or "-"
    except InputError as error:
        return "?" if "can both be" in str(error) else "-"


@pytest.mark.parametrize(("name", "header", "columns"), CASES, ids=[name for name, *_ in CASES])
def test_the_columns_of_a_log_are_known(name: str, header: str, columns: str) -> None:
    names = [field.strip('"').partition(":")[0] for field in header.split(";" if ";" in header else ",")]
    roles = ("user", "item", "rating", "timestamp")
    assert " ".join(found(role, names) for role in roles) == columns


@pytest.mark.parametrize("name", ["Titel", "prod_name", "Book-Title"])
def test_the_column_of_titles_is_known(name: str) -> None:
    assert found("title", ["article_id", name]) == name
